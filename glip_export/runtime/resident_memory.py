"""Gives back memory that only mirrors files."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path


def forget_mapped_files(*folders: Path) -> None:
    """Let go of the pages of files in `folders` that this process has mapped; what is read again is read again.

    Linux only, elsewhere nothing happens. Weights that a library mapped and then copied otherwise stay in memory twice.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    if advice is None:
        return
    madvise = ctypes.CDLL(None).madvise
    for line in lines:
        addresses, permissions, *_ = line.split(maxsplit=5)
        writable = "w" in permissions  # what was written to a private mapping would be lost
        if not writable and Path("/" + line.partition("/")[2]).parent in folders:
            begin, end = (int(address, 16) for address in addresses.split("-"))
            madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)
