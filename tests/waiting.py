"""Waiting and measuring whose outcome is the same on a machine of any speed."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

LIMIT = 600.0  # seconds; no measure of anything: what has not come by then does not come


def wait_until(condition: Callable[[], Any], what: str = "it did not come to that") -> None:
    """Returns once the condition holds."""
    until = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def wait_until_gone(pids: Iterable[int]) -> None:
    """Returns once none of these processes runs; a zombie does not."""
    for pid in pids:
        wait_until(lambda pid=pid: not runs(pid), f"process {pid} lives on")


def runs(pid: int) -> bool:
    """Whether this process is there and more than a zombie."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Clock:
    """In place of the module time: a time that passes when a test or a `sleep` says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def cpu_seconds(*command: str) -> float:
    """The processor time of a process, whatever else runs beside it; not os.times(), which counts in hundredths."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def least(measure: Callable[[], float], unit: Callable[[], float], rounds: int = 5) -> float:
    """measure() in units of unit(): taken in turn, and the least of each, for other work adds to both."""
    pairs = [(measure(), unit()) for _ in range(rounds)]
    return min(one for one, _ in pairs) / min(other for _, other in pairs)


def own_cpu_seconds(work: Callable[[], Any]) -> float:
    """The processor time of this thread's work."""
    before = time.thread_time()
    work()
    return time.thread_time() - before
