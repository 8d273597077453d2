"""Tar shards: members by offset, what stands under their keys, and archives that are damaged or mean harm."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from glip_export.errors import GlipExportError, GlipExportWarning, ImageError
from glip_export.image import load_image
from glip_export.labelling.items import Answer, Item, Where
from glip_export.labelling.reading import read_picture
from glip_export.labelling.shards import read_shard, write_shard
from glip_export.labelling.sources import open_source

pa = pytest.importorskip("pyarrow")


def png(width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 4)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def opened(text: object) -> list[Item]:
    source = open_source(str(text))
    items = list(source.items())
    assert items == list(pickle.loads(pickle.dumps(source)).items())
    assert len(items) == len({item.source for item in items}) and source.count() is None
    assert all(len(item.carried) == 4 for item in items)
    return items


def widths(items: list[Item]) -> list[int]:
    return [load_image(read_picture(item.where, item.source)).shape[1] for item in items]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_of_one_key(tmp_path: Path, form: int) -> None:
    long = "d/" + "n" * 90
    write(
        tmp_path / "s-0.tar",
        [
            ("./a/1.JPG", png(5)),
            ("./a/1.json", b'{"x": 1}'),
            ("./a/1.txt", "ü\xff".encode("latin-1")),
            ("2.txt", b"x" * 65_537),
            ("2.seg.png", png(6)),
            ("2.png", png(7)),
            ("2.cls", b"17"),
            ("._3.png", b"of a Mac"),
            ("__key__", b""),
            (f"{long}.png", png(8)),
        ],
        form,
    )
    write(tmp_path / "s-1.tar", [("2.png", png(9))], form)
    items = opened(tmp_path / "s-{0..1}.tar")
    names = ["s-0.tar/./a/1.JPG", "s-0.tar/2.seg.png", "s-0.tar/2.png", f"s-0.tar/{long}.png", "s-1.tar/2.png"]
    assert [item.source for item in items] == names and widths(items) == [5, 6, 7, 8, 9]
    assert widths(items[::-1]) == [9, 8, 7, 6, 5]
    assert [item.carried for item in items] == [
        ("a/1", '{"x": 1}', "\ufffd\ufffd", None),
        ("2", None, None, "17"),
        ("2", None, None, "17"),
        (long, None, None, None),
        ("2", None, None, None),
    ]
    carried = open_source(str(tmp_path)).carried
    write_shard(tmp_path / "0.parquet", items, [Answer.failed("none")] * 5, carried)
    assert next(read_shard(tmp_path / "0.parquet")).carried == dict(
        zip(("key", "json", "txt", "cls"), items[0].carried, strict=True)
    )


def test_a_folder_of_shards_and_names_that_stand_twice_or_are_odd(tmp_path: Path) -> None:
    write(tmp_path / "x.tar", [("a.png", png(5)), ("a.png", png(6)), ("b/../../c\n.png", png(7)), ("a#1.png", png(8))])
    (tmp_path / "notes").write_text("x")
    items = opened(tmp_path)
    second, last = items[1].where.offset, items[3].where.offset
    assert [item.source for item in items] == [
        "x.tar/a.png",
        f"x.tar/a.png#0.{second}",
        r"x.tar/b/../../c\n.png",
        f"x.tar/a#1.png#0.{last}",
    ]
    assert widths(items) == [5, 6, 7, 8] and {item.where.path for item in items} == {str(tmp_path / "x.tar")}
    Image.new("RGB", (5, 4)).save(tmp_path / "z.png")
    with pytest.warns(GlipExportWarning, match="1 tar shard"):
        assert [item.source for item in open_source(str(tmp_path)).items()] == ["z.png"]  # pictures come first


@pytest.mark.parametrize("keep", [700, 2100, 3000, 3100])  # in a picture, in another, in padding, in a header
def test_an_archive_that_is_cut_off(tmp_path: Path, keep: int) -> None:
    whole = tmp_path / "whole.tar"
    noise = [os.urandom(900) for _ in range(3)]
    write(whole, [(f"{number}.png", data) for number, data in enumerate(noise)], tarfile.USTAR_FORMAT)
    (tmp_path / "0.tar").write_bytes(whole.read_bytes()[:keep])
    whole.unlink()
    write(tmp_path / "1.tar", [("end.png", png(5))])
    items = opened(tmp_path)
    begun = 1 + (keep > 2048)
    assert [item.source for item in items][:begun] == [f"0.tar/{number}.png" for number in range(begun)]
    assert items[-2].source == "0.tar#file" and items[-2].problem and items[-1].source == "1.tar/end.png"
    assert len(items) == begun + 2
    cut = items[-3]
    if keep in (700, 2100):
        with pytest.raises(ImageError, match=r"png' is cut off: .* ends after \d+ of its 900 bytes"):
            read_picture(cut.where, cut.source)


def test_a_damaged_header_is_told_and_what_came_before_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", [("a.png", png(5)), ("a.txt", b"x"), ("b.png", png(6))], tarfile.USTAR_FORMAT)
    data = bytearray((tmp_path / "0.tar").read_bytes())
    data[2048:2058] = b"\xff" * 10
    (tmp_path / "0.tar").write_bytes(data)
    items = opened(tmp_path)
    assert [item.source for item in items] == ["0.tar/a.png", "0.tar#file"] and widths(items[:1]) == [5]
    assert items[0].carried == ("a", None, "x", None)
    assert items[1].problem == "the header at byte 2048 is damaged: what follows is not read"


def header(name: str, size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """512 bytes with a sum that is right, whatever the size says."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size.ljust(12, b"\0")
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    return bytes(block)


NEGATIVE, HUGE = b"\xff" * 10 + b"\xfc\x00", b"77777777777"  # -1024, so that the next header is an earlier one; 8 GB


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header("a.png", NEGATIVE), "damaged"),
        (header("x", NEGATIVE, tarfile.XHDTYPE), "."),
        (header("x", HUGE, tarfile.GNUTYPE_LONGNAME), "a header says that it has 8589934592 bytes"),
        (header("x", HUGE, tarfile.XHDTYPE), "a header says that it has 8589934592 bytes"),
        (header("x", b"", tarfile.XHDTYPE) * 5000, "."),
        (b"nonsense" * 1000, "invalid header|damaged|truncated"),
        (b"", "empty file"),
    ],
)
def test_archives_that_mean_harm_are_one_item(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "0.tar").write_bytes(data)
    write(tmp_path / "1.tar", [("a.png", png(5))])
    items = opened(tmp_path)
    assert items[-2].source == "0.tar#file" and items[-1].source == "1.tar/a.png"
    assert len(items) == 2 and items[0].problem and "\n" not in items[0].problem
    with pytest.raises(GlipExportError, match=words):
        open_source(str(tmp_path / "0.tar"))


def test_a_member_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(header("a.png", HUGE) + b"x" * 1024)
    items = opened(tmp_path)
    with pytest.raises(ImageError, match=r"a.png' is too large: 8589934591 bytes are more than 512 MB"):
        read_picture(items[0].where, items[0].source)
    with pytest.raises(ImageError, match=r"cut off: .* ends after 0 of its 5 bytes"):
        read_picture(Where(str(tmp_path / "0.tar"), 10_000, 5), "it")


def test_a_link_in_an_archive_says_that_it_is_one(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert [item.problem for item in opened(tmp_path)] == ["it is a link in its archive, not a file"] * 2


def test_other_kinds_of_members_say_what_they_are(tmp_path: Path) -> None:
    kinds = {b"6": "a pipe", b"3": "a device", b"4": "a device", b"Z": "of an unknown kind", b"S": "a sparse file"}
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"{number}.png")
            info.type = kind
            archive.addfile(info)
    problems = [item.problem for item in opened(tmp_path)]
    for problem, words in zip(problems, kinds.values(), strict=True):
        assert problem.startswith(f"it is {words} in its archive")
    pax = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,4", "GNU.sparse.size": "9"}
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.size, info.pax_headers = 4, pax
        archive.addfile(info, io.BytesIO(b"data"))
        archive.addfile(tarfile.TarInfo("b.png"))
    assert [item.problem.partition(" in")[0] for item in opened(tmp_path)] == ["it is a sparse file", ""]


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz", "0.tgz", "{0..3}.tar.gz"])
def test_compressed_archives_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "1.tar", [("a.png", png(5))])
    (tmp_path / name).write_bytes(gzip.compress((tmp_path / "1.tar").read_bytes()))
    with pytest.raises(GlipExportError, match=r"is compressed.* so that no picture in it can be sought: unpack it"):
        open_source(str(tmp_path / name))
    (tmp_path / name).rename(tmp_path / "2.tar")
    assert ["compressed (gzip)" in item.problem for item in opened(tmp_path)] == [False, True]


def test_an_archive_of_many_members_takes_no_more_memory(tmp_path: Path) -> None:
    def peak(members: int) -> int:
        path = tmp_path / f"{members}.tar"
        write(path, ((f"{number}.png", b"x") for number in range(members)), tarfile.USTAR_FORMAT)
        source = open_source(str(path))
        tracemalloc.start()
        try:
            assert sum(1 for _ in source.items()) == members
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(5000) < peak(100) + 300_000
