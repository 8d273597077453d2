"""Waiting for what is to come, on a machine of any speed."""

from __future__ import annotations

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
