"""Memory that mirrors files goes; everything else stays as it is."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from glip_export.runtime.resident_memory import forget_mapped_files

SIZE = 16 << 20


def resident_files() -> int:
    """Bytes of files in this process's memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is mapped")
def test_mapped_files_go_and_are_read_again(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    values.tofile(tmp_path / "weights")
    with (tmp_path / "weights").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        assert (view == values).all()
        before = resident_files()
        forget_mapped_files(tmp_path / "elsewhere")
        assert resident_files() > before - SIZE // 2
        forget_mapped_files(tmp_path)
        if resident_files() > before - SIZE // 2:
            pytest.skip("this kernel, older than 5.4, or this file system keeps the pages")
        assert (view == values).all()
        del view


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is mapped")
def test_memory_that_took_a_files_place_keeps_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may unmap the file, and get the addresses for an array, between the look and the advice."""
    array = np.arange(SIZE // 8)
    begin = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    end = begin + SIZE // 2
    stale = f"{begin:x}-{end:x} r--p 00000000 00:00 1    {tmp_path}/weights\n"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", lambda *_, **__: stale)
        forget_mapped_files(tmp_path)
    np.testing.assert_array_equal(array, np.arange(SIZE // 8))
