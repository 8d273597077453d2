"""Object stores: every kind of source below s3://, on a store that is a folder of this machine."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glip_export.errors import GlipExportError, ImageError
from glip_export.image import load_image
from glip_export.labelling import places, reading
from glip_export.labelling.items import Item, Where
from glip_export.labelling.kept import Kept
from glip_export.labelling.reading import read_picture
from glip_export.labelling.sources import open_source

pa = pytest.importorskip("pyarrow")
fs = pytest.importorskip("pyarrow.fs")
pq = pytest.importorskip("pyarrow.parquet")

OPTIONS = "?region=eu-west-1&endpoint_override=http://localhost:9000"


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, str]]]:
    """What file systems were made; all of them are tmp_path, with a folder for each bucket."""
    made: list[tuple[str, str, str]] = []

    def local(scheme: str, authority: str, query: str) -> Any:
        made.append((scheme, authority, query))
        return fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())

    monkeypatch.setattr(places, "_made", local)
    monkeypatch.setattr(places, "_filesystems", Kept(8))
    monkeypatch.setattr(reading, "_archives", Kept(16))
    monkeypatch.setattr(reading, "_failures", reading._Failures())
    yield made


def png(width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 4)).save(file, "PNG")
    return file.getvalue()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tar(path: Path, *widths: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, width in enumerate(widths):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(png(width))
            archive.addfile(info, io.BytesIO(png(width)))


def read(items: list[Item]) -> dict[str, int]:
    return {item.source: load_image(read_picture(item.where, item.source)).shape[1] for item in items}


def test_a_prefix_of_pictures(tmp_path: Path, asked: list[tuple[str, str, str]]) -> None:
    for width, name in enumerate(("a.png", "b c%20#1?.png", "sub/ü.png", ".hidden.png", "notes.txt"), start=3):
        put(tmp_path / "bucket/pics" / name, png(width))
    for address in ("s3://bucket/pics", "s3://bucket/pics/"):
        items = list(open_source(address + OPTIONS).items())
        assert read(items) == {"a.png": 3, "b c%20#1?.png": 4, "sub/ü.png": 5}
        assert items[1].where == Where(f"s3://bucket/pics/b c%20#1?.png{OPTIONS}")
    assert asked == [("s3", "bucket", OPTIONS[1:])]  # made once, and kept


def test_parquet_and_shards(tmp_path: Path) -> None:
    for part in range(2):
        (tmp_path / "bucket/pq").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": [png(3 + part), png(9)]}), tmp_path / f"bucket/pq/{part}.parquet")
        tar(tmp_path / f"bucket/wds/{part}.tar", 3 + part, 9)
    rows = {"0.parquet#0": 3, "0.parquet#1": 9, "1.parquet#0": 4, "1.parquet#1": 9}
    for address in ("gs://bucket/pq", "gs://bucket/pq/{0..1}.parquet", "gs://bucket/pq/[01].parquet"):
        source = open_source(address)
        assert read(list(source.items())) == rows and source.count() == 4
    members = {"0.tar/0.png": 3, "0.tar/1.png": 9, "1.tar/0.png": 4, "1.tar/1.png": 9}
    for address in ("s3://bucket/wds", "s3://bucket/wds/?.tar", "s3://bucket/wds/{0,1}.tar"):
        assert read(list(open_source(address + OPTIONS).items())) == members
    below = {f"wds/{name}": width for name, width in members.items()}
    assert read(list(open_source(f"s3://bucket/**/*.tar{OPTIONS}").items())) == below
    missing = list(open_source("s3://bucket/wds/{1..2}.tar").items())[-1]
    assert missing.source == "2.tar#file" and missing.problem


def test_a_list_in_a_store_and_addresses_in_a_list(tmp_path: Path) -> None:
    put(tmp_path / "bucket/pics/a.png", png(5))
    put(tmp_path / "bucket/lists/l.txt", f"../pics/a.png\ns3://bucket/pics/a.png{OPTIONS}\n./no.png\n".encode())
    items = list(open_source(f"s3://bucket/lists/l.txt{OPTIONS}").items())
    assert list(read(items[:2]).values()) == [5, 5]
    assert items[0].where == items[1].where == Where(f"s3://bucket/pics/a.png{OPTIONS}")
    with pytest.raises(ImageError, match=r"the picture './no.png' does not exist"):
        read_picture(items[2].where, items[2].source)


def test_an_object_above_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "bucket/a.png", b"x" * 2000)
    monkeypatch.setattr(reading, "LARGEST", 1000)
    with pytest.raises(ImageError, match="'it' is too large: 2000 bytes are more than 0 MB"):
        read_picture(Where("s3://bucket/a.png"), "it")


def test_a_store_that_answers_nothing_ends_the_run_and_bad_pictures_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "bucket/x.parquet", b"nonsense")
    put(tmp_path / "bucket/a.png", png(5))
    for _ in range(2 * reading.MOST_FAILED):
        for where in (Where("s3://bucket/no.png"), Where("s3://bucket/x.parquet", column="image", row=0)):
            with pytest.raises(ImageError):
                read_picture(where, "it")

    class Broken:
        def open_input_file(self, path: str) -> None:
            raise OSError("AWS Error NETWORK_CONNECTION")

    def fail(times: int) -> None:
        for _ in range(times):
            with pytest.raises(ImageError, match="'it' cannot be read: AWS Error"):
                read_picture(Where("s3://bucket/a.png"), "it")

    with monkeypatch.context() as broken:
        broken.setattr(places, "_filesystems", Kept(8))
        broken.setattr(places, "_made", lambda *_: Broken())
        fail(reading.MOST_FAILED - 1)
    read_picture(Where("s3://bucket/a.png"), "it")  # begins anew
    monkeypatch.setattr(places, "_filesystems", Kept(8))
    monkeypatch.setattr(places, "_made", lambda *_: Broken())
    fail(reading.MOST_FAILED - 1)
    with pytest.raises(GlipExportError, match="20 requests in a row failed; the last one, for") as caught:
        read_picture(Where("s3://bucket/a.png"), "it")
    assert not isinstance(caught.value, ImageError)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://key:secret@bucket/pics", "with a key in it would be written into every output"),
        ("https://example.org/pics", "addresses start with s3://"),
        ("s3://", "names no bucket"),
        ("s3://bucket/nowhere", r"the folder 's3://bucket/nowhere' cannot be listed"),
        ("s3://bucket/a.png", "is one picture: glip-export detect is for that"),
        ("s3://bucket/x.tar.gz", "is compressed"),
        ("s3://bucket/*.csv", "names files of no kind that can be labelled"),
        ("s3://bucket/*.tar", "no file is like"),
    ],
)
def test_addresses_that_cannot_be_labelled(tmp_path: Path, address: str, words: str) -> None:
    (tmp_path / "bucket").mkdir()
    with pytest.raises(GlipExportError, match=words) as caught:
        open_source(address)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_requests_to_s3_end(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.undo()  # the real maker of file systems
    monkeypatch.setattr(fs, "S3FileSystem", lambda **how: given.update(how))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000")
    places._made("s3", "bucket", "anonymous=true&region=eu-west-1")
    assert given.pop("retry_strategy").max_attempts == 4
    assert given == {
        "anonymous": True,
        "region": "eu-west-1",
        "endpoint_override": "http://localhost:9000",
        "connect_timeout": 10,
        "request_timeout": 60,
        "force_virtual_addressing": False,
    }


def test_file_addresses_are_local_files(tmp_path: Path) -> None:
    put(tmp_path / "a b" / "x.png", png(5))
    os.rename(tmp_path / "a b/x.png", os.fsencode(tmp_path / "a b") + b"/\xff.png")
    (item,) = open_source(f"file://{tmp_path}/a%20b").items()
    assert item.where.path == f"file://{tmp_path}/a%20b/%FF.png"
    assert read([item]) == {r"\xff.png": 5}
    tar(tmp_path / "s/0.tar", 6)
    assert read(list(open_source(f"file://{tmp_path}/s/0.tar").items())) == {"0.tar/0.png": 6}
