"""Pictures from where their items say: what they are called, threads, files that change, and what stays open."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from glip_export.errors import GlipExportError, ImageError
from glip_export.image import load_image, picture_name
from glip_export.labelling import reading
from glip_export.labelling.items import Where
from glip_export.labelling.kept import Kept
from glip_export.labelling.reading import NamedBytes, read_picture


def test_a_local_file_is_a_path_so_that_it_is_opened_once(tmp_path: Path) -> None:
    assert read_picture(Where(str(tmp_path / "a.png")), "a.png") == tmp_path / "a.png"


def test_bytes_are_called_by_the_items_name() -> None:
    assert picture_name(NamedBytes(b"", "s.tar/1.png")) == "'s.tar/1.png'"
    with pytest.raises(ImageError, match=r"'s.tar/1.png' is not a picture that can be read"):
        load_image(NamedBytes(b"nonsense", "s.tar/1.png"))


def test_ranges_of_one_file_from_threads(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    data = os.urandom(100_000)
    (tmp_path / "x").write_bytes(data)
    wrong: list[int] = []

    def check(start: int) -> None:
        for place in range(start, 90_000, 997):
            picture = read_picture(Where(str(tmp_path / "x"), place, 1000), "it")
            if not isinstance(picture, NamedBytes) or picture.read() != data[place : place + 1000]:
                wrong.append(place)

    threads = [threading.Thread(target=check, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_that_was_replaced_is_opened_again(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    where = Where(str(tmp_path / "x"), 1, 2)
    for data in (b"abcd", b"efghi"):
        (tmp_path / "x").write_bytes(data)
        picture = read_picture(where, "it")
        assert isinstance(picture, NamedBytes) and picture.read() == data[1:3]
    (tmp_path / "x").unlink()
    with pytest.raises(ImageError, match=r"'it' cannot be read: .*x' is not there"):
        read_picture(where, "it")


def test_few_archives_stay_open(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("no /proc")
    before = len(list(descriptors.iterdir()))
    for number in range(60):
        (tmp_path / str(number)).write_bytes(b"abcd")
        read_picture(Where(str(tmp_path / str(number)), 0, 4), "it")
    assert len(list(descriptors.iterdir())) <= before + 16


def test_without_pyarrow_the_run_ends_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for where in (Where("s3://b/a.png"), Where("/x.tar", 0, 5), Where("/x.parquet", column="image", row=0)):
        with pytest.raises(GlipExportError, match=r"pip install 'glip-export\[label\]'") as caught:
            read_picture(where, "it")
        assert not isinstance(caught.value, ImageError)


def test_kept_things_are_made_once_and_the_oldest_goes() -> None:
    kept: Kept[str] = Kept(2)
    made: list[str] = []

    def get(key: str) -> str:
        return kept.get(key, lambda: made.append(key) or key)  # type: ignore[func-returns-value]

    assert [get(key) for key in "aabacab"] == list("aabacab")
    assert made == ["a", "b", "c", "b"]
    kept.drop("b")
    get("b")
    assert made[-2:] == ["b", "b"]


def test_a_forked_child_opens_its_own(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    kept: Kept[int] = Kept(2)
    kept.get("a", os.getpid)
    kept._lock.acquire()  # as by a thread that the child does not have
    child = os.fork()
    if child == 0:
        os._exit(0 if kept.get("a", os.getpid) == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_picture_that_is_a_pipe_or_a_folder_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name, words in (("pipe.png", "is not a regular file"), (".", "is a directory")):
        with pytest.raises(ImageError, match=words):
            load_image(read_picture(Where(str(tmp_path / name)), name))
    assert reading.LARGEST == 512 * 2**20
