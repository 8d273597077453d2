"""LVIS's numbers by arrays against the same in plain loops, on sets with ties, sizes and gaps drawn at random."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_lvis import PlainFound, plain_scores

from glip_export.evaluation.lvis import best
from glip_export.evaluation.lvis.dataset import LvisDataset
from glip_export.evaluation.lvis.scores import score_lvis
from glip_export.evaluation.rows import Found

SIZES = (4.0, 20.0, 32.0, 50.0, 96.0, 120.0)


def drawn(seed: int, folder: Path) -> tuple[LvisDataset, list[PlainFound]]:
    """8 pictures, 6 classes: one without objects, one without detections; few boxes and scores, so that they tie."""
    rng = np.random.default_rng(seed)
    ids = [int(each) for each in rng.permutation(90)[:6] + 1]
    annotations: list[dict[str, Any]] = []
    found: list[PlainFound] = []
    images = []
    for item in range(8):
        some = [each for each in ids if rng.random() < 0.4]
        partly = [each for each in ids if rng.random() < 0.25]
        images.append(
            {"id": 10 + 3 * item, "height": 200, "width": 200, "coco_url": f"http://x/y/{item}.jpg"}
            | {"neg_category_ids": some, "not_exhaustive_category_ids": partly}
        )
        for label in range(1, 6):
            for _ in range(int(rng.integers(0, 4))):
                box = [*(10.0 * rng.integers(0, 4, 2)), *rng.choice(SIZES, 2)]
                area = float(rng.choice([box[2] * box[3], 0.5 * box[2] * box[3], 32.0**2, 96.0**2, 0.0]))
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": 10 + 3 * item, "category_id": ids[label]}
                    | {"bbox": box, "area": area}
                )
        for label in range(5):
            for _ in range(int(rng.integers(0, 7))):
                own = [each for each in annotations if each["image_id"] == 10 + 3 * item]
                of_class = [each for each in own if each["category_id"] == ids[label]]
                near = [each["bbox"] for each in of_class or own] or [[0, 0, 32, 32]]
                box = [float(side) for side in near[rng.integers(len(near))]]
                if rng.random() < 0.5:
                    box = [box[0] + rng.integers(-2, 3), box[1], box[2] * rng.choice([1, 0.9, 0.0]), box[3]]
                found.append(PlainFound(item, label, float(rng.integers(1, 8)) / 8, box))
    frequencies = ["r", "c", "f", "r", "c", "f"]
    categories = [{"id": own, "name": f"n{own}", "frequency": each} for own, each in zip(ids, frequencies, strict=True)]
    path = folder / f"{seed}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}, default=float))
    dataset = LvisDataset.read(path, folder)
    places = {category: label for label, category in enumerate(dataset.category_ids)}
    for each in found:
        each.label = places[ids[each.label]]
    return dataset, found


def in_blocks(found: list[PlainFound], size: int) -> list[Found]:
    return [
        Found(
            np.array([each.item for each in part], np.int64),
            np.array([each.label for each in part], np.int64),
            np.array([each.score for each in part], np.float64),
            np.array([each.box for each in part], np.float64).reshape(-1, 4),
        )
        for part in (found[start : start + size] for start in range(0, len(found), size))
    ]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("most", [None, 3, 11])
def test_fixed_ap_is_the_plain_one(seed: int, most: int | None, tmp_path: Path) -> None:
    dataset, found = drawn(seed, tmp_path)
    scores = score_lvis(dataset, in_blocks(found, 7), most_a_class=most or 10_000)
    assert scores.values == pytest.approx(plain_scores(dataset, found, most, None), abs=1e-12)
    assert scores.values["AP"] is not None and 0.02 < scores.values["AP"] < 0.98


@pytest.mark.parametrize("seed", range(3))
def test_normal_ap_is_the_plain_one(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, found = drawn(seed, tmp_path)
    monkeypatch.setattr("glip_export.evaluation.lvis.scores.MOST_A_PICTURE", 9)
    scores = score_lvis(dataset, in_blocks(found, 50), normal=True)
    assert scores.values == pytest.approx(plain_scores(dataset, found, None, 9), abs=1e-12)
    assert scores.counted < len(found)


def test_the_size_of_blocks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties at the limit go to what came first, wherever the blocks are cut and the buffers pruned."""
    dataset, found = drawn(1, tmp_path)
    whole = score_lvis(dataset, in_blocks(found, len(found)), most_a_class=5)
    monkeypatch.setattr(best, "GATHERED", 1)
    for size in (1, 2, 13):
        assert score_lvis(dataset, in_blocks(found, size), most_a_class=5) == whole


def test_no_detections_count_as_none_found(tmp_path: Path) -> None:
    dataset, _ = drawn(2, tmp_path)
    scores = score_lvis(dataset, [])
    assert scores.values["AP"] == scores.values["AR@-1"] == 0.0
    assert scores.counted == 0


def test_pictures_that_are_left_out_take_their_objects_with_them(tmp_path: Path) -> None:
    dataset, found = drawn(3, tmp_path)
    first, *others = dataset.images
    bare = replace(
        dataset,
        images=(replace(first, neg_category_ids=frozenset(), not_exhaustive_category_ids=frozenset()), *others),
        objects=tuple(each for each in dataset.objects if each.image_id != first.id),
    )
    scores = score_lvis(dataset, in_blocks(found, 9), left_out={0})
    assert scores == score_lvis(bare, in_blocks(found, 9))
    assert scores != score_lvis(dataset, in_blocks(found, 9))
