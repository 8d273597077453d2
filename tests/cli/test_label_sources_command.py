"""glip-export label: the same pictures from a folder, Parquet and tar shards are labelled the same."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import CAT
from PIL import Image

from glip_export.labelling.shards import read_shards


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    photo = Image.open(CAT)
    for number in range(2):
        photo.crop((10 * number, 5 * number, 160 + 10 * number, 120)).save(folder / f"{number}.png")
    return folder


def labelled(output: str) -> list[tuple[Any, ...]]:
    """All that was found, in the source's order, to the last bit, and what was carried."""
    return [
        (row.answer.error, row.answer.labels.tobytes(), row.answer.scores.tobytes(), row.answer.boxes.tobytes())
        for row in read_shards(Path(output))
    ]


def test_every_kind_of_source_is_labelled_the_same(glip_export: Callable, pictures: Path, tiny_bundle: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = sorted(pictures.iterdir())
    columns = {"image": [file.read_bytes() for file in files], "width": [7, None], "mask": [b"x"] * 2}
    pq.write_table(pa.table(columns), "rows.parquet")
    with tarfile.open("shard.tar", "w") as archive:
        for file in files:
            archive.add(file, file.name)
    how = ("--prompt", "cat. remote control", "--threshold", "0.02", "--threads", "1", "--bundle", tiny_bundle)
    for source in (pictures, "rows.parquet", "shard.tar"):
        code, _, err = glip_export("label", source, *how, "--output", f"{Path(source).name}.out")
        assert code == 0, err
        assert ("columns that are not carried along: mask" in err) == (source == "rows.parquet")
    expected = labelled("pictures.out")
    assert len(expected) == 2 and all(not error and boxes for error, *_, boxes in expected)
    for output in ("rows.parquet.out", "shard.tar.out"):
        assert labelled(output) == expected
    about = json.loads(Path("rows.parquet.out/summary.json").read_text())["pictures_from"]
    assert about["kind"] == "parquet" and about["carried"] == ["input_width"] and about["not_carried"] == ["mask"]
    carried = [row.carried for row in read_shards(Path("rows.parquet.out"))]
    assert carried == [{"input_width": 7}, {"input_width": None}]
    assert next(read_shards(Path("shard.tar.out"))).source == "shard.tar/0.png"
