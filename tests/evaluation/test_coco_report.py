"""Backends side by side: differences, verdict, tables, JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from answers import Answers, write_set
from rich.console import Console

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export.evaluation import CocoDataset, evaluate_coco
from glip_export.evaluation.report import MOST_CLASSES, CocoReport

BOX = (10, 20, 100, 100)
RIGHT = (0, 0.9, (10, 20, 109, 119))
SMALLER = (0, 0.9, (10, 20, 109, 97))  # an IoU of 0.78: an AP of 0.6


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    truth = [(1, 1, BOX), (2, 1, BOX), (2, 9, BOX)]
    return CocoDataset.read(*write_set(tmp_path, {1: (200, 200), 2: (200, 200), 3: (9, 9)}, truth))


def report(dataset: CocoDataset, limit: float | None = None) -> CocoReport:
    dataset.images[2].path.unlink(missing_ok=True)
    answers = {"torch": [RIGHT], "onnxruntime": [RIGHT], "openvino:bf16": [SMALLER]}
    results = {name: evaluate_coco(Answers({1: given, 2: given}), dataset) for name, given in answers.items()}
    return CocoReport(dataset, results, {"batch": 3}, limit)


def text(found: CocoReport) -> str:
    console = Console(width=130)
    with console.capture() as capture:
        for table in found.tables():
            console.print(table)
    return capture.get()


def test_differences_from_the_first(dataset: CocoDataset) -> None:
    found = report(dataset)
    assert found.first == "torch"
    assert found.differences("onnxruntime")["AP"] == 0
    assert found.differences("openvino:bf16")["AP"] == pytest.approx(-0.4)
    assert found.differences("openvino:bf16")["AP50"] == pytest.approx(0)
    assert found.differences("openvino:bf16")["AP_small"] is None


@pytest.mark.parametrize(("limit", "passed"), [(None, True), (0.5, True), (0.39, False), (0, False)])
def test_the_verdict(dataset: CocoDataset, limit: float | None, passed: bool) -> None:
    assert report(dataset, limit).passed is passed


def test_tables(dataset: CocoDataset) -> None:
    out = text(report(dataset))
    assert "2 pictures, 1 categories" in out and "-0.4000" in out and "+0.0000" in out
    assert "1.000" in out and "0.600" in out
    assert "annotation: unknown category │        1 │ annotation entry 3: category_id 9" in out
    assert "picture: missing" in out


def test_json(dataset: CocoDataset) -> None:
    found = json.loads(json.dumps(report(dataset, 0.5).to_dict(), allow_nan=False))
    assert found["batch"] == 3 and found["passed"] is True and found["max_ap_difference"] == 0.5
    assert found["problems"]["counts"] == {"annotation: unknown category": 1, "picture: missing": 1}
    assert len(found["problems"]["entries"]) == 2
    first, other = found["backends"]["torch"], found["backends"]["openvino:bf16"]
    assert first["scores"]["AP"] == pytest.approx(1.0) and first["scores"]["AP_small"] is None
    assert first["scores"]["AR100"] == pytest.approx(1.0)
    assert first["pictures"] == 2 and first["left_out"] == 1 and first["detections"] == 2
    assert found["scores"] == first["scores"] and first["scores"]["APl"] == first["scores"]["AP_large"]
    assert first["differences"] is None and other["differences"]["AP"] == pytest.approx(-0.4)
    assert other["classes"] == [
        {"id": 1, "name": "cat", "objects": 2, "AP": pytest.approx(0.6), "AP50": pytest.approx(1), "AR100": 0.6}
    ]


def test_names_are_shown_as_they_stand(tmp_path: Path) -> None:
    """Neither rich's markup nor a terminal's escape sequences."""
    categories = [(1, "[red]cat[/red] [/b]"), (2, "\x1b[2Jdog"), *((number, f"n{number}") for number in range(3, 120))]
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200)}, [(1, 1, BOX)], categories))
    out = text(CocoReport(dataset, {"torch": evaluate_coco(Answers({1: [RIGHT]}), dataset)}, {}))
    assert "[red]cat[/red] [/b]" in out and "\x1b" not in out and r"\x1b[2Jdog" in out
    assert f"and {119 - MOST_CLASSES} more" in out and "n118" not in out
