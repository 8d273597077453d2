"""What this process may use, and the processes of ours that it starts: what they need, and that they end with it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import glip_export
from glip_export.errors import GlipExportError, GlipExportWarning

SHARES = "GLIP_EXPORT_SHARES_CORES"  # in the environment of processes that share the cores
PARENT = "GLIP_EXPORT_PARENT"  # in the environment of a child: the process to end with
_PR_SET_PDEATHSIG = 1  # of Linux's prctl

_loaded_before_fork: set[str] = set()  # modules


def usable_cores(root: Path = Path("/")) -> int:
    """CPUs this process may use at once: what its affinity, and its container's CPU quota rounded up, leave of them.

    root: where the system's files are, for tests.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def thread_count(asked: int | None, stacklevel: int = 1) -> int | None:
    """Threads for a backend: what was asked for, or the usable cores, with a GlipExportWarning, if they are fewer.

    Where nothing was asked for, the usable cores if they are fewer than the machine has, else None: libraries see the
    machine's CPUs, not what a container leaves of them, but know better than we which share a core. stacklevel: 1 warns
    of the caller's line. Raises GlipExportError for less than one thread.
    """
    usable = usable_cores()
    if asked is not None and (asked != int(asked) or asked < 1):
        raise GlipExportError(f"threads are a whole number from 1 on, not {asked}")
    if asked is None:
        return usable if usable < (os.cpu_count() or 1) else None
    if asked > usable:
        words = f"{asked} threads are more than the {usable} CPU core(s) that this process may use: {usable} are taken"
        warnings.warn(words, GlipExportWarning, stacklevel=stacklevel + 1)
    return min(asked, usable)


def share_cores() -> None:
    """Has threads of this process that wait for work sleep, not spin: other processes want the cores for the same.

    Before any library with threads is loaded. The number of threads stays, for results depend on it to the last digit.
    """
    os.environ[SHARES] = "1"
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", KMP_BLOCKTIME="0")


def shares_cores() -> bool:
    """Whether `share_cores` was called here."""
    return SHARES in os.environ


def is_forked_after(module: str) -> bool:
    """Whether this process was forked, without an exec since, when the module was loaded: its threads did not come."""
    return module in _loaded_before_fork


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


@contextmanager
def no_interrupt() -> Iterator[None]:
    """Ctrl-C waits until the block ends, and never reaches processes that are started in it: we end them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def _cpu_quota(root: Path) -> float | None:
    """CPUs that this process's control groups allow, the least of its own and those above; None without a limit."""
    quotas = [
        quota
        for mount, group in _cpu_groups(root)
        for folder in (mount, *(mount / part for part in (group, *group.parents)))
        if (quota := _quota_of(folder)) is not None
    ]
    return min(quotas, default=None)


def _cpu_groups(root: Path) -> list[tuple[Path, PurePosixPath]]:
    """Where each version's CPU controller may be mounted, with this process's group below it.

    In a container the mount is often the group itself, and the path the host's.
    """
    mounts = root / "sys/fs/cgroup"
    lines = _read(root / "proc/self/cgroup").splitlines()
    found = [(mounts, PurePosixPath()), (mounts / "cpu", PurePosixPath())]
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        group = PurePosixPath(path.lstrip("/"))
        if ".." in group.parts:  # outside of what this process sees
            continue
        if not controllers:
            found += [(mounts, group), (mounts / "unified", group)]
        elif "cpu" in controllers.split(","):
            found += [(mounts / controllers, group), (mounts / "cpu", group)]
    return found


def _quota_of(folder: Path) -> float | None:
    """Of one control group: version 2's "200000 100000" of 10^-6 s, or version 1's two files; None without a limit."""
    words = _read(folder / "cpu.max").split()
    words = words or [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
    try:
        quota, period = (int(word) for word in words)  # "max" is no limit, as -1 is
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _note_fork() -> None:
    _loaded_before_fork.update(sys.modules)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
