"""Average precision against numbers computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from answers import write_set

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export.evaluation import CocoDataset
from glip_export.evaluation.average_precision import PRECISIONS, score

BOX = (10, 20, 100, 100)  # x, y, width, height: large, as COCO has it


def result(image_id: int, score: float, box=BOX, category_id: int = 1):
    return {"image_id": image_id, "category_id": category_id, "bbox": list(box), "score": score}


def dataset(folder: Path, images: int, objects, categories=((1, "cat"),), change=None) -> CocoDataset:
    sizes = dict.fromkeys(range(1, images + 1), (200, 200))
    return CocoDataset.read(*write_set(folder, sizes, objects, categories, change))


def test_right_boxes_have_an_ap_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = dataset(tmp_path, 2, [(1, 1, BOX), (2, 1, BOX), (2, 1, (0, 0, 20, 20))])
    found = score(truth, [result(1, 0.9), result(2, 0.8), result(2, 0.7, (0, 0, 20, 20))], [1, 2]).values
    assert [found[name] for name in ("AP", "AP50", "AP75", "AP_small", "AP_large")] == [pytest.approx(1.0)] * 5
    assert found["AP_medium"] is None and found["AR_medium"] is None  # none is there
    assert found["AR100"] == pytest.approx(1.0) and found["AR1"] == pytest.approx(2 / 3)
    assert capsys.readouterr().out == ""


def test_a_known_mixture(tmp_path: Path) -> None:
    """Four objects; right, wrong, right, and two never found."""
    truth = dataset(tmp_path, 4, [(image, 1, BOX) for image in range(1, 5)])
    results = [result(1, 0.9), result(2, 0.8, (150, 150, 40, 40)), result(3, 0.7)]
    found = score(truth, results, [1, 2, 3, 4]).values
    # COCO asks for the best precision at recalls of 0, 0.01 .. 1: 1 up to 1/4 (26 points), 2/3 up to 1/2 (25), then 0.
    assert found["AP50"] == pytest.approx((26 + 25 * 2 / 3) / 101)
    assert found["AP"] == pytest.approx(found["AP50"])  # boxes are exact, so every IoU threshold gives the same
    assert found["AR100"] == pytest.approx(2 / 4)


def test_thresholds_of_overlap(tmp_path: Path) -> None:
    truth = dataset(tmp_path, 1, [(1, 1, BOX)])
    found = score(truth, [result(1, 0.9, (10, 20, 100, 78))], [1]).values  # an IoU of 0.78
    assert found["AP50"] == found["AP75"] == pytest.approx(1.0)
    assert found["AP"] == pytest.approx(0.6)  # 0.5, 0.55 .. 0.75 of ten thresholds


def test_each_class_by_itself(tmp_path: Path) -> None:
    """Ids with gaps, 0 among them, in no order; one category without objects."""
    categories = ((90, "dog"), (0, "cat"), (7, "horse"))
    truth = dataset(tmp_path, 2, [(1, 0, BOX), (2, 0, BOX), (2, 90, BOX)], categories)
    found = score(truth, [result(1, 0.9, category_id=0), result(2, 0.9, category_id=90)], [1, 2])
    assert [(each.id, each.name, each.objects) for each in found.classes] == [
        (90, "dog", 1),
        (0, "cat", 2),
        (7, "horse", 0),
    ]
    assert found.classes[0].values == {"AP": pytest.approx(1.0), "AP50": pytest.approx(1.0), "AR100": pytest.approx(1)}
    assert found.classes[1].values["AP"] == pytest.approx(51 / 101)  # one of two: recalls up to 0.5
    assert found.classes[2].values == {"AP": None, "AP50": None, "AR100": None}
    assert found.values["AP"] == pytest.approx((51 / 101 + 1) / 2)


def test_the_order_of_the_categories_changes_no_digit(tmp_path: Path) -> None:
    """Sums in float64 depend on their order: it is that of the ids, as pycocotools has it, not that of the labels."""
    rng = np.random.default_rng(5)
    ids = [7, 3, 41, 12, 30, 1, 22, 18, 9, 5, 60]
    truth = [
        (image, number, (*rng.uniform(0, 80, 2), *rng.uniform(20, 110, 2))) for image in (1, 2, 3) for number in ids
    ]
    results = [
        result(image, float(rng.random()), tuple(np.array(box) + rng.normal(0, 8, 4).clip(-15, 15)), number)
        for image, number, box in truth
        for _ in range(3)
    ]
    listed, by_id = (
        score(dataset(tmp_path / name, 3, truth, [(number, f"n{number}") for number in order]), results, [1, 2, 3])
        for name, order in (("listed", ids), ("by_id", sorted(ids)))
    )
    assert listed.values == by_id.values and 0.1 < (listed.values["AP"] or 0) < 0.9
    assert [each.id for each in listed.classes] == ids
    assert sorted(listed.classes, key=lambda each: each.id) == list(by_id.classes)


def test_crowds_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    def crowd(content) -> None:
        content["annotations"][1]["iscrowd"] = 1

    truth = dataset(tmp_path, 1, [(1, 1, BOX), (1, 1, (120, 120, 60, 60))], change=crowd)
    found = score(truth, [result(1, 0.9, (121, 121, 50, 50)), result(1, 0.8)], [1])
    assert found.values["AP"] == pytest.approx(1.0)
    assert found.classes[0].objects == 1


def test_only_the_pictures_asked_for_count(tmp_path: Path) -> None:
    truth = dataset(tmp_path, 3, [(image, 1, BOX) for image in (1, 2, 3)])
    assert score(truth, [result(2, 0.9)], [2]).values["AP"] == pytest.approx(1.0)
    assert score(truth, [result(2, 0.9)], [1, 2]).values["AP"] == pytest.approx(51 / 101)


def test_nothing_found_and_nothing_to_find(tmp_path: Path) -> None:
    truth = dataset(tmp_path / "some", 1, [(1, 1, BOX)])
    assert score(truth, [], [1]).values["AP"] == 0
    empty = dataset(tmp_path / "none", 1, [])
    found = score(empty, [result(1, 0.9)], [1]).values
    assert [found[name] for name in PRECISIONS] == [None] * 6


def test_results_are_not_changed(tmp_path: Path) -> None:
    given = [result(1, 0.9)]
    score(dataset(tmp_path, 1, [(1, 1, BOX)]), given, [1])
    assert given == [result(1, 0.9)]
