"""A `glip-export serve` in a process of its own, for tests and load."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from glip_export.processes import child_environment

START_SECONDS = 600.0


@dataclass(frozen=True)
class ServerProcess:
    """A server that answers at `url`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://").rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self, seconds: float = 600.0) -> int:
        """Asks it to end (SIGTERM) and gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def read_log(self) -> str:
        """What it wrote, output and errors."""
        return self.log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def running_server(
    bundle: Path, options: Sequence[str] = (), environment: dict[str, str] | None = None
) -> Iterator[ServerProcess]:
    """Starts `glip-export serve BUNDLE --port 0 OPTIONS` and waits for its address; ends it at the block's end."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "glip_export.cli", "serve", str(bundle), "--port", "0", *options]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**child_environment(), **(environment or {})}
            )
        try:
            yield ServerProcess(_address(process, log), process, log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(120)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        text = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"at (http://\S+:\d+);", text)
        if found:
            return found[1]
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}: {text.strip()}")
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start within {START_SECONDS:g} s")
