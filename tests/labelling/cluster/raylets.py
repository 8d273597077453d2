"""A real Ray cluster on this machine: a head and a second raylet by `ray start`, each of one CPU."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ray_token import TOKEN
from waiting import wait_until

import glip_export

STORE = 100_000_000  # bytes of each one's object store


class Raylets:
    """The processes of the cluster; `address` is the head's."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self._folder = folder  # of a short name: sockets' are limited to 107 bytes
        self.cache = cache  # of what is brought to workers
        self._started: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def start_head(self) -> None:
        """The head, with a raylet."""
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self._folder}")

    def add(self, *words: str) -> None:
        """Another raylet. words: more of `ray start`, which go over its own."""
        self._start(f"--address={self.address}", *words)

    def kill(self, node: dict[str, Any]) -> None:
        """SIGKILL to the raylet of a machine as `ray.nodes` tells it; its workers end by themselves."""
        (raylet,) = [
            process
            for process in self._processes()
            if any(node["RayletSocketName"] in word for word in _words(process)) and "raylet" in process.name()
        ]
        raylet.send_signal(signal.SIGKILL)

    def end(self) -> None:
        """Exactly what was started."""
        for process in self._processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        for started in self._started:
            started.wait()

    def _start(self, *words: str) -> None:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--num-gpus=0"),
            *(f"--object-store-memory={STORE}", "--disable-usage-stats"),
            *("--min-worker-port=0", "--max-worker-port=0", *words),
        ]
        paths = os.pathsep.join([str(Path(glip_export.__file__).parents[1]), *sys.path])  # the tests' modules too
        environment = {**os.environ, **TOKEN, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(self.cache)}
        log = open(self._folder / f"start-{len(self._started)}.log", "wb")  # noqa: SIM115
        with log:
            self._started.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            )
        wait_until(lambda: self._is_up(Path(log.name)), f"ray start: {Path(log.name).read_text()[-2000:]}")

    def _is_up(self, log: Path) -> bool:
        code = self._started[-1].poll()
        assert code is None, f"ray start ended with {code}: {log.read_text()[-3000:]}"
        return "Ray runtime started" in log.read_text()

    def _processes(self) -> list[psutil.Process]:
        """All that name the cluster's folder, and what started them; workers end with their raylet."""
        starters = {started.pid for started in self._started}
        return [
            process
            for process in psutil.process_iter()
            if process.pid in starters or any(str(self._folder) in word for word in _words(process))
        ]


@contextmanager
def two_raylets(cache: Path) -> Iterator[Raylets]:
    """The cluster, as long as the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    raylets = Raylets(folder, cache)
    try:
        raylets.start_head()
        raylets.add()
        yield raylets
    finally:
        raylets.end()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
