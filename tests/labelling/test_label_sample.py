"""The gallery of a run: which pictures it shows, and that each is with its own boxes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from labelled_runs import NAMES, answer, item, write_run
from PIL import Image

from glip_export.labelling.items import Answer, Item
from glip_export.labelling.sample import sample, write_sample
from glip_export.labelling.shards import read_shards
from glip_export.labelling.thresholds import Thresholds

HALF = Thresholds.same(0.5, NAMES)


def test_the_sample_is_the_same_whatever_the_order(tmp_path: Path) -> None:
    pictures = [(item(f"{number}.jpg"), answer()) for number in range(50)]
    write_run(tmp_path / "a", pictures)
    write_run(tmp_path / "b", pictures[::-1], shard_size=7)
    first, second = ([row.source for row in sample(read_shards(tmp_path / name), 10)] for name in "ab")
    assert first == second and len(set(first)) == 10
    assert set(first) != {f"{number}.jpg" for number in range(10)}
    assert [row.source for row in sample(read_shards(tmp_path / "a"), 5)] == first[:5]


def test_each_picture_is_drawn_with_what_reaches_its_threshold(tmp_path: Path) -> None:
    found = answer((1, 0.9, (1, 2, 20, 15)), (0, 0.4, (3, 4, 9, 9)), (2, 0.4, (5, 5, 9, 9)), height=20, width=30)
    write_run(tmp_path / "run", [(_saved(tmp_path / "a.png"), found)])
    target = tmp_path / "sample.html"
    assert write_sample(tmp_path / "run", NAMES, Thresholds((0.3, 0.5, 0.5)), target, "cat. dog", "demo") == 1
    document = _data(target)
    assert document["threshold"] == 0.3 and document["classes"] == list(NAMES)
    (result,) = document["results"]
    assert result["file"] == "a.png" and [each["name"] for each in result["detections"]] == ["dog", "cat"]
    assert result["detections"][0]["box"] == [1, 2, 20, 15]


def test_what_cannot_be_read_any_more_is_passed_over(tmp_path: Path) -> None:
    small = answer(height=20, width=30)
    pictures = [(_saved(tmp_path / f"{number}.png"), small) for number in range(6)]
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"no picture")
    _saved(tmp_path / "2.png", height=21)
    write_run(tmp_path / "run", [*pictures, (item("failed.png"), Answer.failed("no"))])
    target = tmp_path / "sample.html"
    assert write_sample(tmp_path / "run", NAMES, HALF, target, "cat", "demo") == 3
    assert sorted(each["file"] for each in _data(target)["results"]) == ["3.png", "4.png", "5.png"]
    assert write_sample(tmp_path / "run", NAMES, HALF, target, "cat", "demo", count=2) == 2


def test_a_run_without_answers_gives_an_empty_gallery(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [(item("failed.png"), Answer.failed("no"))])
    assert write_sample(tmp_path / "run", NAMES, HALF, tmp_path / "sample.html", "cat", "demo") == 0
    assert _data(tmp_path / "sample.html")["results"] == []


def _saved(path: Path, height: int = 20, width: int = 30) -> Item:
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)
    return item(path.name, path)


def _data(target: Path) -> dict[str, Any]:
    found = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', target.read_text(), re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))
