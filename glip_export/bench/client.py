"""The parent's end of a worker process."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from glip_export.bench.job import Job
from glip_export.errors import BackendError
from glip_export.processes import start_worker

GOODBYE = 20.0  # seconds a worker has to end by itself


class WorkerProcess:
    """A worker that answers `ask`; use it as a context, for it is ended with the block."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = start_worker("glip_export.bench.worker", self._stderr)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, do: str, **arguments: Any) -> Any:
        """The result of one command; raises BackendError with the worker's own words, or with how it ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise BackendError(f"{self.name}: its process ended {self._how()}")
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise BackendError(f"{self.name}: {answer['error']}")
        return answer["ok"]

    def close(self) -> None:
        """Ends the process: its input ends, and so does it."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it ended before
                self._process.stdin.close()
        try:
            self._process.wait(GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()

    def _how(self) -> str:
        code = self._process.wait(GOODBYE)
        how = f"with code {code}"
        if code < 0:
            how = f"by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        self._stderr.seek(0)
        words = [line.strip() for line in self._stderr.read().splitlines() if line.strip()]
        return f"{how}: {words[-1][:300]}" if words else how


class BackendProcess(WorkerProcess):
    """A worker with one backend: loaded, run, asked what came out."""

    def load(self, job: Job, backend: str) -> dict[str, Any]:
        """{"load_s", "precision"}."""
        return self.ask("load", job=job.to_json(), backend=backend)

    def run(self) -> dict[str, Any]:
        """{"total_ms", "stages", "calls"} of one run."""
        return self.ask("run")

    def outcome(self) -> dict[str, Any]:
        """{"load_peak_rss_mb", "peak_rss_mb", "sizes", "detections"} after the last run."""
        return self.ask("outcome")

    def count_with_torch(self) -> float:
        """10^9 multiply-adds a picture, for backend torch."""
        return self.ask("count_with_torch")
