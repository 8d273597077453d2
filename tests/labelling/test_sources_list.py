"""Lists: a path a line, every line with a name of its own, in memory that does not grow."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from glip_export.errors import GlipExportError, ImageError
from glip_export.image import load_image
from glip_export.labelling.items import Item
from glip_export.labelling.reading import read_picture
from glip_export.labelling.sources import open_source
from glip_export.labelling.sources.names import UniqueNames, escaped


def listed(path: Path, *lines: bytes) -> list[Item]:
    path.write_bytes(b"\n".join(lines))
    source = open_source(str(path))
    items = list(source.items())
    assert source.count() == len(items) == len({item.source for item in items})
    return items


def test_paths_are_relative_to_the_list(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "sub/a.png")
    items = listed(tmp_path / "l.txt", b"\xef\xbb\xbfsub/a.png\r", b"", b"  ", os.fsencode(tmp_path / "sub/a.png"))
    assert [item.source for item in items] == ["sub/a.png", str(tmp_path / "sub/a.png")]
    assert {item.where.path for item in items} == {str(tmp_path / "sub/a.png")}
    assert load_image(read_picture(items[0].where, items[0].source)).shape == (4, 5, 3)


def test_lines_that_stand_twice_say_their_number(tmp_path: Path) -> None:
    items = listed(tmp_path / "l.lst", b"a.jpg", b"b.jpg", b"a.jpg", b"a.jpg#3", b"a.jpg", b"a#b.jpg", b"./a.jpg")
    assert [item.source for item in items] == [
        "a.jpg",
        "b.jpg",
        "a.jpg#3",
        "a.jpg#3#4",
        "a.jpg#5",
        "a#b.jpg#6",
        "./a.jpg",
    ]
    assert items[3].where.path == str(tmp_path / "a.jpg#3") and items[4].where.path == str(tmp_path / "a.jpg")


def test_lines_of_any_bytes(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    lines = [b"caf\xe9.png", b"x" * 100_000, b"a\0b", b"s3://bucket/\xff.jpg", b"s3://bucket/k?y%20 #1.jpg", b"end"]
    items = listed(tmp_path / "l", *lines)
    assert items[0].source == r"caf\xe9.png"
    assert load_image(read_picture(items[0].where, items[0].source)).shape == (4, 5, 3)
    assert [bool(item.problem) for item in items] == [False, True, True, True, False, False]
    assert "line 2 of" in items[1].problem and "no UTF-8" in items[3].problem
    assert items[4].where.path == "s3://bucket/k?y%20 #1.jpg" and items[5].where.path == str(tmp_path / "end")


def test_an_address_of_no_store_is_the_pictures_own_error(tmp_path: Path) -> None:
    (item,) = listed(tmp_path / "l.txt", b"https://example.org/a.jpg")
    with pytest.raises(ImageError, match=r"a.jpg' cannot be read: .*addresses start with s3://"):
        read_picture(item.where, item.source)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.txt", b"\n \n", "holds no picture"),
        ("table.csv", b"a,b\n", "is no list with a path a line"),
        ("archive.bin", b"PK\0\0", "is no text"),
    ],
)
def test_what_is_no_list(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(GlipExportError, match=words):
        open_source(str(tmp_path / name))
    with pytest.raises(GlipExportError, match="--column names a column of Parquet"):
        open_source(str(tmp_path / name), column="x")


def test_a_pipe_cannot_be_read_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(GlipExportError, match="no regular file"):
        open_source(str(tmp_path / "pipe.txt"))


def test_a_list_of_100_000_lines_takes_no_more_memory_than_one_of_1_000(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        path = tmp_path / f"{lines}.txt"
        path.write_text("".join(f"folder/of/pictures/{number}.jpg\n" for number in range(lines)))
        source = open_source(str(path))
        tracemalloc.start()
        try:
            assert sum(1 for _ in source.items()) == lines
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(1_000), peak(100_000)
    assert large < small + 1_000_000  # the filter's 32 MB are in both


def test_a_full_filter_still_gives_every_name_once() -> None:
    names = UniqueNames()
    names._seen[:] = b"\xff" * len(names._seen)
    assert [names.of("a", "1"), names.of("b", "2"), names.of("a#1", "3")] == ["a#1", "b#2", "a#1#3"]


def test_different_texts_have_different_escapes() -> None:
    texts = ["\x85", "\udc85", r"\x85", r"\u0085", "a\nb", r"a\nb", "\\", "\\\\", "a", "\u202e", r"\u202e", "\ud800"]
    assert len({escaped(text) for text in texts}) == len(texts)
    assert all(escaped(text).isprintable() for text in texts)
