"""A Ray cluster of several raylets on this machine, started by `ray start`, as on as many machines."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

OBJECT_STORE = 150_000_000  # bytes a raylet
PATIENCE = 90  # seconds


@dataclass(frozen=True)
class Cluster:
    """raylets: process ids, the head's first."""

    address: str
    raylets: tuple[int, ...]


@contextlib.contextmanager
def ray_cluster(raylets: int = 2, cpus: int = 1) -> Iterator[Cluster]:
    """A cluster of so many raylets with so many CPUs each; all that it started is ended after it."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # of this process's children too
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # short: sockets' names have at most 107 characters
    from ray.util import get_node_ip_address

    port = _free_port()
    address = f"{get_node_ip_address()}:{port}"
    common = ["--num-cpus", str(cpus), "--object-store-memory", str(OBJECT_STORE)]
    common += ["--disable-usage-stats", "--block"]
    head = ["--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", str(folder), *common]
    started = [_start(head, folder / "0.log")]
    try:
        _wait(started[0], folder / "0.log")
        for number in range(1, raylets):
            started.append(_start(["--address", address, *common], folder / f"{number}.log"))
        for number, process in enumerate(started):
            _wait(process, folder / f"{number}.log")
        found = [raylet for process in started for raylet in _raylets_of(process.pid)]
        yield Cluster(address, tuple(found))
    finally:
        for process in reversed(started):
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def kill_node(raylet: int) -> None:
    """As a machine that loses its power: the raylet and all that it started, at once."""
    process = psutil.Process(raylet)
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGKILL)


def _start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words]

    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all its children."""
    children = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    _, left = psutil.wait_procs(children, timeout=10)
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.wait()


def _raylets_of(process: int) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(process).children(recursive=True) if child.name() == "raylet"]
    return []


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the node says that it belongs to the cluster."""
    until = time.monotonic() + PATIENCE
    while "Ray runtime started" not in (words := log.read_text(encoding="utf-8", errors="replace")):
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"a node of Ray's cluster did not start:\n{words[-2000:]}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
