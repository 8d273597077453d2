"""LVIS's numbers against those of the original's evaluator, digit for digit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glip_export.evaluation.lvis.dataset import LvisDataset
from glip_export.evaluation.lvis.scores import LvisScores, score_lvis
from glip_export.evaluation.rows import Found

ORACLE = Path(__file__).parents[2] / "data" / "oracle" / "lvis_eval"
MODES: dict[str, dict[str, Any]] = {
    "fixed_ap_top10000": {},
    "fixed_ap_top12": {"most_a_class": 12},
    "normal_ap": {"normal": True},
}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ORACLE / "expected.json").read_text())
    return found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LvisDataset:
    found = LvisDataset.read(ORACLE / "lvis_gt.json", tmp_path_factory.mktemp("pictures"))
    assert not found.problems
    return found


def blocks(dataset: LvisDataset) -> Iterator[Found]:
    """A block a picture, as the original's evaluator is given them; boxes by plain differences in float32."""
    stored = np.load(ORACLE / "detections.npz")
    items = {image.id: item for item, image in enumerate(dataset.images)}
    labels = {category: label for label, category in enumerate(dataset.category_ids)}
    for image_id in stored["image_ids"].tolist():
        boxes, scores, found = (stored[f"{image_id}_{name}"] for name in ("boxes", "scores", "labels"))
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        assert xywh.dtype == np.float32
        yield Found(
            np.full(len(boxes), items[image_id], np.int64),
            np.array([labels[each] for each in found.tolist()], np.int64),
            scores.astype(np.float64),
            xywh.astype(np.float64),
        )


@pytest.mark.parametrize("mode", MODES)
def test_every_number_is_the_originals(dataset: LvisDataset, expected: dict[str, Any], mode: str) -> None:
    wanted = expected[mode]
    found = score_lvis(dataset, blocks(dataset), **MODES[mode])
    assert found.values == _numbers(wanted["results"])
    assert found.counted == wanted["n_detections_after_caps"]
    for name, key in (
        ("AP", "per_category_AP"),
        ("AP50", "per_category_AP50"),
        ("recall", "recall_iou50_area_all"),
    ):
        assert _of_classes(found, name) == _numbers(wanted[key]), name


def test_the_caps_tell_the_modes_apart(expected: dict[str, Any]) -> None:
    """Else the comparisons above would not show that they are done."""
    assert len({expected[mode]["results"]["AP"] for mode in MODES}) == len(MODES)


def _of_classes(scores: LvisScores, name: str) -> dict[str, float | None]:
    return {str(each.id): each.values[name] for each in scores.classes}


def _numbers(values: dict[str, float]) -> dict[str, float | None]:
    """The original has -1 where nothing counts."""
    return {key: None if value == -1 else value for key, value in values.items()}
