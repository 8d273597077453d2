"""What this process may use, and the processes of ours that it starts: what they need, and that they end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import glip_export

PARENT = "GLIP_EXPORT_PARENT"  # in the environment of a child: the process to end with
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def usable_cores() -> int:
    """CPUs this process may run on: fewer than the machine has in many containers."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_worker(module: str, stderr: IO[str]) -> subprocess.Popen[str]:
    """python -m module, which we speak with in lines of UTF-8; the module calls `end_with_parent` first of all."""
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        encoding="utf-8",
        env=child_environment(),
    )


def child_environment() -> dict[str, str]:
    """The environment with this very package on Python's path, installed or not, and this process as the parent."""
    package = str(Path(glip_export.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), PARENT: str(os.getpid())}


def end_with_parent(parent: int | None = None) -> None:
    """Has this process end, whatever it does, when its parent does, be it by SIGKILL.

    parent: its pid; by default the one that gave us its `child_environment`, without which nothing happens. On Linux
    the kernel ends us, though native code may hold the interpreter; it goes by the thread that started us, which
    therefore has to live as long. Elsewhere a thread looks every second. Windows tells no process of its parent's end:
    there a child ends when its standard input does.
    """
    parent = parent or int(os.environ.pop(PARENT, "0"))  # not for children of our own
    if not parent or sys.platform == "win32":
        return
    told = _ask_the_kernel()
    if os.getppid() == parent and told:
        return
    if not _lives(parent):
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _ask_the_kernel() -> bool:
    if sys.platform != "linux":
        return False
    import ctypes

    return ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0


def _watch(parent: int) -> None:
    while _lives(parent):
        time.sleep(1)
    os._exit(1)


def _lives(parent: int) -> bool:
    """Whether it is our parent, or lives as another's between which and us a third stands, such as a shell."""
    if os.getppid() == parent:
        return True
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a later process of that pid, another user's
        return False
    return True
