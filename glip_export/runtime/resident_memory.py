"""Gives back memory that only mirrors files."""

from __future__ import annotations

import ctypes
from pathlib import Path

# Linux 5.4. MADV_DONTNEED would be known to older ones, but what it is told of may by then be another thread's memory,
# which would lose what it holds; this advice never loses anything.
MADV_PAGEOUT = 21


def forget_mapped_files(*folders: Path) -> None:
    """Let go of the pages of files in `folders` that this process has mapped; what is read again is read again.

    Linux only, elsewhere nothing happens. Weights that a library mapped and then copied otherwise stay in memory twice.
    """
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes, madvise.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    for line in lines:
        addresses, permissions, *_ = line.split(maxsplit=5)
        if "w" not in permissions and Path("/" + line.partition("/")[2]).parent in folders:
            begin, end = (int(address, 16) for address in addresses.split("-"))
            madvise(begin, end - begin, MADV_PAGEOUT)
