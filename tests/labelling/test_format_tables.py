"""JSON lines and Parquet: every picture once, its detections by name, the source's own columns beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from labelled_runs import CARRIED, HEIGHT, NAMES, WIDTH, answer, conversion, files_below, item, random_answer, write_run

from glip_export.errors import GlipExportError
from glip_export.labelling.formats.convert import FORMATS, convert
from glip_export.labelling.formats.jsonl import write_jsonl
from glip_export.labelling.formats.parquet import write_parquet
from glip_export.labelling.items import Answer
from glip_export.labelling.shards import shard_file
from glip_export.labelling.split import split_of

ONE = answer((1, 0.9, (10, 20, 30, 40)))
ANSWERS = {f"{number}.jpg": random_answer(number, number) for number in range(10)}
RUN = [(item(source), given) for source, given in ANSWERS.items()]


def test_lines_hold_the_detections(tmp_path: Path) -> None:
    write_run(tmp_path, RUN)
    paths = write_jsonl(conversion(tmp_path, 0.3))
    assert [path.name for path in paths] == [f"labels-{number:06d}.jsonl" for number in range(3)]
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert [row["source"] for row in rows] == list(ANSWERS)
    for row, given in zip(rows, ANSWERS.values(), strict=True):
        kept = given.scores >= 0.3
        found = row["detections"]
        assert (row["width"], row["height"], row["error"]) == (WIDTH, HEIGHT, None)
        assert [each["name"] for each in found] == [NAMES[label] for label in given.labels[kept]]
        boxes = np.array([each["box"] for each in found]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, given.boxes[kept], atol=0.00051)
        np.testing.assert_allclose([each["score"] for each in found], given.scores[kept], atol=1e-6)


def test_columns_hold_the_detections(tmp_path: Path) -> None:
    write_run(tmp_path, RUN)
    (folder,) = write_parquet(conversion(tmp_path, 0.3))
    assert files_below(folder) == ["_made.json", *(f"part-{number:06d}.parquet" for number in range(3))]
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["source"] for row in rows] == list(ANSWERS)
    for row, given in zip(rows, ANSWERS.values(), strict=True):
        kept = given.scores >= 0.3
        np.testing.assert_array_equal(row["labels"], given.labels[kept])
        np.testing.assert_array_equal(np.float32(row["scores"]), given.scores[kept])
        np.testing.assert_array_equal(np.float32(row["boxes"]).reshape(-1, 4), given.boxes[kept])
        assert row["names"] == [NAMES[label] for label in given.labels[kept]]
    assert pq.read_table(folder)["source"].to_pylist() == list(ANSWERS)  # as one
    metadata = json.loads(pq.read_schema(folder / "part-000000.parquet").metadata[b"glip_export"])
    assert metadata == {"names": list(NAMES), "thresholds": [0.3] * 3}


def test_a_split_shares_the_pictures_out(tmp_path: Path) -> None:
    write_run(tmp_path, RUN)
    lines = {"train": [], "val": []}  # type: dict[str, list[str]]
    for path in write_jsonl(conversion(tmp_path, val=0.4)):
        lines[path.name.partition("-")[0]] += [json.loads(line)["source"] for line in path.read_text().splitlines()]
    (folder,) = write_parquet(conversion(tmp_path, val=0.4))
    for split, sources in lines.items():
        assert sources == [source for source in ANSWERS if split_of(source, 0.4) == split] != []
        parts = sorted((folder / split).glob("*.parquet"))
        assert [source for part in parts for source in pq.read_table(part)["source"].to_pylist()] == sources


def test_errors_are_rows_and_other_columns_go_along(tmp_path: Path) -> None:
    pictures = [
        (item("a.jpg", None, "two cats", 9, b"\0"), ONE),
        (item("b.jpg", None, None, 9, None), Answer.failed("no")),
    ]
    write_run(tmp_path, pictures, carried=CARRIED)
    good, bad = (json.loads(line) for line in write_jsonl(conversion(tmp_path))[0].read_text().splitlines())
    assert good["carried"] == {"caption": "two cats", "input_width": 9}
    assert bad["error"] == "no" and bad["detections"] == []
    (folder,) = write_parquet(conversion(tmp_path))
    good, bad = pq.read_table(folder / "part-000000.parquet").to_pylist()
    assert (good["caption"], good["input_width"], good["digest"], good["error"]) == ("two cats", 9, b"\0", None)
    assert (bad["error"], bad["names"], bad["boxes"]) == ("no", [], [])


def test_a_shard_is_never_the_part_itself(tmp_path: Path) -> None:
    write_run(tmp_path, RUN[:2])
    before = shard_file(tmp_path, 0).read_bytes()
    (folder,) = write_parquet(conversion(tmp_path, 0))
    (folder / "part-000000.parquet").write_bytes(b"overwritten by its user")
    assert shard_file(tmp_path, 0).read_bytes() == before


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_tells_a_shard_that_cannot_be_read_and_leaves_what_was_there(tmp_path: Path, kind: str) -> None:
    write_run(tmp_path, RUN)
    convert(kind, conversion(tmp_path, pictures="none"))
    before = files_below(tmp_path / kind)
    assert len(before) > 1
    shard_file(tmp_path, 1).write_bytes(b"PAR1 no more")
    with pytest.raises(GlipExportError, match=r"000001.parquet cannot be read .*: remove it, and label again"):
        convert(kind, conversion(tmp_path, pictures="none"))
    assert files_below(tmp_path / kind) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["shards", kind])  # nothing half made


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_made_again_with_fewer_shards(tmp_path: Path, kind: str) -> None:
    write_run(tmp_path, [*RUN, (item("bad.jpg"), Answer.failed("no"))])
    written = convert(kind, conversion(tmp_path, val=0.3, pictures="none"))
    assert written[-1] == tmp_path / "errors.jsonl" and all(path.exists() for path in written)
    for number in (1, 2):
        shard_file(tmp_path, number).unlink()
    written = convert(kind, conversion(tmp_path, pictures="none"))
    assert all(path.exists() for path in written) and not (tmp_path / "errors.jsonl").exists()
    assert not any("val" in file or "000001" in file for file in files_below(tmp_path / kind))


def test_an_errors_file_of_others_is_never_replaced(tmp_path: Path) -> None:
    write_run(tmp_path, RUN)
    (tmp_path / "errors.jsonl").write_text("mine\n")
    with pytest.raises(GlipExportError, match=r"errors.jsonl was not made by"):
        convert("coco", conversion(tmp_path))
    assert (tmp_path / "errors.jsonl").read_text() == "mine\n"


def test_an_unknown_format_is_told(tmp_path: Path) -> None:
    with pytest.raises(GlipExportError, match="'voc' is none of coco, yolo, parquet, jsonl"):
        convert("voc", conversion(tmp_path))
