"""Parquet: columns of paths and bytes, what is carried along, what is broken, and values read by rows."""

from __future__ import annotations

import datetime
import io
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glip_export.errors import GlipExportError, ImageError
from glip_export.image import load_image
from glip_export.labelling import parquet_file
from glip_export.labelling.items import Answer, Item, Where
from glip_export.labelling.reading import read_picture
from glip_export.labelling.shards import read_shard, write_shard
from glip_export.labelling.sources import Source, open_source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 4)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, columns: dict[str, Any], **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **how)


def opened(text: object, **how: Any) -> tuple[Source, list[Item]]:
    source = open_source(str(text), **how)
    items = list(source.items())
    assert items == list(pickle.loads(pickle.dumps(source)).items())
    assert source.count() == len(items) == len({item.source for item in items})
    json.dumps(source.describe())
    return source, items


def widths(items: list[Item]) -> list[int]:
    return [load_image(read_picture(item.where, item.source)).shape[1] for item in items]


def test_a_column_of_paths_from_the_files_own_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "data/a.png")
    write(tmp_path / "data/l.parquet", {"n": [1, 2, 3, 4], "file_name": ["a.png", None, "a.png", str(tmp_path / "b")]})
    source, items = opened(tmp_path / "data/l.parquet")
    assert [item.source for item in items] == ["a.png", "l.parquet#1", "a.png#0.2", str(tmp_path / "b")]
    assert [item.problem for item in items if item.problem] == [
        "row 1 of 'l.parquet' has no path in the column 'file_name'"
    ]
    assert items[0].where == Where(str(tmp_path / "data/a.png")) and widths([items[0], items[2]]) == [5, 5]
    assert source.carried == pa.schema([("n", pa.int64())]) and [item.carried for item in items] == [
        (1,),
        (2,),
        (3,),
        (4,),
    ]


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_bytes_in_any_order_over_row_groups(tmp_path: Path, rows: int) -> None:
    for part in range(2):
        images = [png(3 + 100 * part + row) for row in range(40)]
        write(tmp_path / f"part-{part:03d}.parquet", {"image": images}, row_group_size=rows)
    _, items = opened(tmp_path / "part-{000..001}.parquet")
    assert items[41].source == "part-001.parquet#1" and items[41].carried == ()
    expected = [3 + 100 * part + row for part in range(2) for row in range(40)]
    assert widths(items) == expected and widths(items[::-1]) == expected[::-1]
    assert widths(items[::7]) == expected[::7]


def test_threads_read_the_same_values(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", {"image": [png(3 + row) for row in range(64)]}, row_group_size=20)
    _, items = opened(tmp_path / "x.parquet")
    found: dict[int, list[int]] = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: widths(items[n::4])})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: list(range(3 + n, 67, 4)) for n in range(4)}


def test_rows_in_their_order_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.parquet", {"image": [png(3 + row) for row in range(64)]}, row_group_size=32)
    _, items = opened(tmp_path / "x.parquet")
    begun: list[int] = []
    real = pq.ParquetFile.iter_batches

    def counted(self: object, *args: Any, **how: Any) -> Any:
        begun.extend(how["row_groups"])
        return real(self, *args, **how)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    order = [*range(0, 40, 2), *range(1, 40, 2), *range(40, 64)]  # threads do not keep the order
    widths([items[place] for place in order])
    assert begun == [0, 1]


def test_hugging_faces_struct_of_bytes_and_path(tmp_path: Path) -> None:
    Image.new("RGB", (9, 4)).save(tmp_path / "there.png")
    images = [{"bytes": png(5), "path": "a.png"}, {"bytes": None, "path": "there.png"}, {"bytes": png(6), "path": None}]
    write(tmp_path / "t.parquet", {"label": ["x", "y", "z", "-"], "image": [*images, None]})
    source, items = opened(tmp_path / "t.parquet")
    assert [item.source for item in items] == ["a.png", "there.png", "t.parquet#2", "t.parquet#3"]
    assert widths(items[:3]) == [5, 9, 6]
    with pytest.raises(ImageError, match=r"is empty: row 3 of .*t.parquet' has nothing in 'image'"):
        read_picture(items[3].where, items[3].source)
    assert source.describe() == {
        "kind": "parquet",
        "path": f"{tmp_path}/",
        "files": 1,
        "column": "image",
        "carried": ["label"],
        "not_carried": [],
    }


def test_what_is_carried_keeps_its_type_through_a_shard(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, datetime.UTC)
    columns = {
        "path": ["a", "b"],
        "source": ["mine", None],
        "input_source": [1, 2],
        "where": pa.array([1.5, None], pa.float32()),
        "names": ["n", None],
        "small": pa.array([7, None], pa.int8()),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "day": pa.array([1767323045678901999, None], pa.timestamp("ns", "UTC")),
        "lists": pa.array([[1, 2], None], pa.list_(pa.int16())),
        "inner": pa.array([{"a": 1, "b": "x"}, None], pa.struct([("a", pa.int32()), ("b", pa.string())])),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
        "id": pa.array([b"\0" * 16, None], pa.binary(16)),
        "mask": [b"bytes", None],
        "old": pa.array([[day], None], pa.list_(pa.timestamp("ns", "UTC"))),
        "far": pa.array([253402300800000000, 0], pa.timestamp("us")),  # the year 10000
    }
    write(tmp_path / "x.parquet", columns)
    source, items = opened(tmp_path / "x.parquet", column="path")
    names = [
        "input_input_source",
        "input_source",
        "input_names",
        "input_where",
        "small",
        "kind",
        "day",
        "lists",
        "inner",
        "map",
        "id",
        "far",
    ]
    assert source.carried is not None and sorted(source.carried.names) == sorted(names)
    assert source.describe()["not_carried"] == ["mask", "old"]
    write_shard(tmp_path / "0.parquet", items, [Answer.failed("none")] * 2, source.carried)
    schema = pq.read_schema(tmp_path / "0.parquet")
    assert [schema.field(name).type for name in source.carried.names] == source.carried.types
    first, second = read_shard(tmp_path / "0.parquet")
    assert first.carried == {
        "input_source": 1,
        "input_input_source": "mine",
        "input_names": "n",
        "input_where": 1.5,
        "small": 7,
        "kind": "x",
        "day": day,
        "lists": [1, 2],
        "inner": {"a": 1, "b": "x"},
        "map": [("k", 1)],
        "id": b"\0" * 16,
        "far": None,
    }
    assert second.carried["input_input_source"] is None and second.carried["far"] == datetime.datetime(1970, 1, 1)


def test_text_that_is_no_utf8(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9.png"]).buffers())
    write(tmp_path / "x.parquet", {"path": broken, "words": broken})
    (tmp_path / "a.png").write_bytes(png(5))
    (tmp_path / "a.png").rename(tmp_path / "caf\udce9.png")
    _, items = opened(tmp_path / "x.parquet")
    assert items[0].source == r"caf\xe9.png" and items[0].carried == ("caf\ufffd.png",)
    assert widths(items) == [5]


def test_which_column_has_the_pictures(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    write(file, {"caption": ["x"], "JPG": [png(5)]})
    assert opened(file)[0].describe()["column"] == "JPG"
    write(file, {"caption": ["x"], "odd": [png(6)]})  # the only one of bytes
    assert widths(opened(file)[1]) == [6]
    write(file, {"caption": ["x.png"], "title": ["y.png"]})
    with pytest.raises(GlipExportError, match=r"which column of 'x.parquet' .* --column: 'caption, title'"):
        open_source(str(file))
    assert opened(file, column="title")[1][0].source == "y.png"
    with pytest.raises(GlipExportError, match=r"has no column 'nope': it has 'caption, title'"):
        open_source(str(file), column="nope")
    write(file, {"path": [1], "image": ["x.png"]})
    with pytest.raises(GlipExportError, match=r"the column 'path' of 'x.parquet' is int64, not of paths or bytes"):
        open_source(str(file), column="path")


def test_all_files_have_one_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "1.parquet", {"path": ["a"], "n": [1]})
    write(tmp_path / "2.parquet", {"n": [1], "path": ["b"]})  # the order is free
    assert [item.source for item in opened(tmp_path)[1]] == ["a", "b"]
    write(tmp_path / "3.parquet", {"path": ["c"], "n": ["one"]})
    with pytest.raises(GlipExportError, match=r"'3.parquet' has other columns .*\('n' is string, not int64\)"):
        open_source(str(tmp_path))
    monkeypatch.setattr("glip_export.labelling.sources.parquet._CHECKED_FILES", 2)  # found only when it comes
    items = list(open_source(str(tmp_path)).items())
    assert [item.source for item in items] == ["a", "b", "3.parquet#file"]
    assert "'n' is string, not int64" in items[2].problem and items[2].carried == (None,)


def test_files_that_are_damaged_or_missing_are_an_item_each(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", {"path": ["a"]})
    (tmp_path / "0.parquet").write_bytes(b"PAR1 nonsense")
    (tmp_path / "2.parquet").write_bytes(b"")
    write(tmp_path / "4.parquet", {"path": ["b"]})
    _, items = opened(tmp_path / "{0..4}.parquet")
    names = ["0.parquet#file", "a", "2.parquet#file", "3.parquet#file", "b"]
    assert [item.source for item in items] == names
    assert [bool(item.problem) for item in items] == [True, False, True, True, False]
    assert all("\n" not in item.problem for item in items)
    with pytest.raises(GlipExportError, match=r"no Parquet file of .* can be read: 0.parquet: "):
        open_source(str(tmp_path / "0.parquet"))
    with pytest.raises(GlipExportError, match=r"no file is like"):
        open_source(str(tmp_path / "no*.parquet"))
    write(tmp_path / "empty.parquet", {"path": pa.array([], pa.string())})
    with pytest.raises(GlipExportError, match=r"holds no picture"):
        open_source(str(tmp_path / "empty.parquet"))


def test_values_that_cannot_be_read_are_the_pictures_own_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.parquet"
    write(file, {"image": [png(5), None, b"", b"x" * 5000]}, compression="none")
    _, items = opened(file)
    assert widths(items[:1]) == [5]
    for item in items[1:3]:
        with pytest.raises(ImageError, match=r"is empty"):
            read_picture(item.where, item.source)
    monkeypatch.setattr("glip_export.labelling.reading.LARGEST", 4000)
    with pytest.raises(ImageError, match=r"'x.parquet#3' cannot be read: row 3 is too large: 50\d\d bytes are more"):
        read_picture(items[3].where, items[3].source)
    with pytest.raises(ImageError, match=r"there is no row 4"):
        read_picture(Where(str(file), column="image", row=4), "it")
    data = file.read_bytes()
    file.write_bytes(data[:20] + b"\xff" * 200 + data[220:])
    with pytest.raises(ImageError, match=r"'x.parquet#0' cannot be read"):
        read_picture(items[0].where, items[0].source)
    file.unlink()
    with pytest.raises(ImageError, match=r"is not there"):
        read_picture(items[0].where, items[0].source)


def test_the_files_kept_open_are_few(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / f"{number}.parquet", {"image": [png(3 + number)]})
    assert widths(opened(tmp_path)[1]) == list(range(3, 13))
    assert len(parquet_file._files._things) == 4
