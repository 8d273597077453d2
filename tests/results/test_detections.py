"""Detections: their forms for JSON and COCO, chunks put together, and the drawn picture."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from glip_export.errors import BackendError, GlipExportError, ImageError, PromptError
from glip_export.results.detections import Detections, concatenate
from glip_export.results.drawing import class_color

BOXES: list[list[float]] = [[10, 20, 110, 70], [-5, 40, 30, 250], [60.25, 5.5, 90, 15]]


def detections(
    boxes: list[list[float]] = BOXES,
    scores: tuple[float, ...] = (0.9, 0.6, 0.3),
    labels: tuple[int, ...] = (1, 0, 1),
    classes: tuple[str, ...] = ("cat", "remote control"),
    image_size: tuple[int, int] = (100, 150),
) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        classes,
        image_size,
    )


def test_names_length_and_threshold() -> None:
    found = detections()
    assert len(found) == 3
    assert found.names == ["remote control", "cat", "remote control"]
    assert found.above(0.6).labels.tolist() == [1, 0]  # the threshold itself belongs
    assert len(found.above(0.95)) == 0
    assert found.above(0.95).boxes.shape == (0, 4)


def test_class_agnostic_nms_keeps_the_best_of_any_name() -> None:
    boxes: list[list[float]] = [[0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 4], [0, 0, 9, 5], [20, 20, 29, 29]]
    found = detections(boxes, (0.5, 0.5, 0.4, 0.3, 0.2), (1, 0, 0, 1, 0)).class_agnostic_nms(0.5)
    # Of equal scores the smaller index; half of the box, 1 added to each side, is not over 0.5 and six tenths are.
    assert found.boxes.tolist() == [boxes[0], boxes[2], boxes[4]]
    assert found.labels.tolist() == [1, 0, 0] and found.classes == ("cat", "remote control")
    assert len(detections(BOXES[:0], (), ()).class_agnostic_nms(0.5)) == 0


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="boxes"):
        detections(scores=(0.9, 0.6))


def test_to_dict_is_json() -> None:
    written = json.loads(json.dumps(detections().to_dict()))
    assert written["image"] == {"height": 100, "width": 150}
    assert written["classes"] == ["cat", "remote control"]
    assert written["detections"][2] == {
        "name": "remote control",
        "label": 1,
        "score": 0.3,
        "box": [60.25, 5.5, 90.0, 15.0],
    }


def test_to_coco() -> None:
    rows = json.loads(json.dumps(detections().to_coco(42, [17, 3])))
    assert rows[0] == {
        "image_id": 42,
        "category_id": 17,
        "bbox": [10, 20, 101, 51],
        "score": pytest.approx(0.9),
    }
    assert [row["category_id"] for row in rows] == [17, 3, 17]
    with pytest.raises(PromptError, match="2 names but COCO has 3"):
        detections().to_coco(1, [1, 2, 3])


def test_to_coco_with_any_id() -> None:
    assert json.dumps(detections().to_coco(np.int64(7), [np.int64(17), np.int64(3)])[0])  # type: ignore[arg-type,list-item]
    assert detections().to_coco("000007", [17, 3])[0]["image_id"] == "000007"
    for wrong in (7.9, None, [7]):
        with pytest.raises(GlipExportError, match="is no id of a COCO image: give a whole number"):
            detections().to_coco(wrong, [17, 3])  # type: ignore[arg-type]
    with pytest.raises(GlipExportError, match="is no id of a COCO category"):
        detections().to_coco(7, [17, 1.5])  # type: ignore[list-item]
    with pytest.raises(GlipExportError, match="not a mapping"):
        detections().to_coco(7, {0: 17, 1: 3})  # type: ignore[arg-type]


def test_to_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    given = detections()
    found = given.to_supervision()
    np.testing.assert_array_equal(found.xyxy, given.boxes)
    np.testing.assert_array_equal(found.confidence, given.scores)
    assert found.xyxy.dtype == found.confidence.dtype == np.float32
    assert found.class_id.tolist() == [1, 0, 1] and found.class_id.dtype == int
    assert found.data["class_name"].tolist() == given.names and found.data["class_name"].dtype.kind == "U"
    found.xyxy[:] = 0
    assert given.boxes.any()  # its own
    empty = detections(BOXES[:0], (), ()).to_supervision()
    assert empty.xyxy.shape == (0, 4) and empty.data["class_name"].shape == (0,)


def test_supervision_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(BackendError, match="pip install supervision"):
        detections().to_supervision()


def test_concatenate_shifts_labels_and_keeps_everything() -> None:
    one = detections()
    two = detections(scores=(0.9, 0.5, 0.1), labels=(0, 0, 2), classes=("dog", "bus", "cup"))
    both = concatenate([one, two])
    assert both.classes == ("cat", "remote control", "dog", "bus", "cup")
    np.testing.assert_array_equal(both.scores, np.array([0.9, 0.9, 0.6, 0.5, 0.3, 0.1], np.float32))
    assert both.names == ["remote control", "dog", "cat", "dog", "remote control", "cup"]
    assert both.labels.dtype == np.int64
    assert both.boxes.dtype == both.scores.dtype == np.float32
    np.testing.assert_array_equal(both.boxes[0], both.boxes[1])  # the same box twice: no NMS across chunks
    empty = detections(BOXES[:0], (), (), ("dog",))
    assert concatenate([empty, one]).names == one.names


def test_concatenate_has_no_limit() -> None:
    part = detections([[0, 0, 9, 9]] * 100, (0.5,) * 100, (0,) * 100, ("cat",))
    assert len(concatenate([part] * 3)) == 300


@pytest.mark.parametrize(
    ("width", "height"),
    [(2, 2), (2, 400), (32, 32), (64, 48), (150, 100), (640, 480), (20, 1500), (1500, 20), (8000, 6000)],
)
def test_draws_at_any_size(width: int, height: int) -> None:
    """Boxes and texts appear, in their colours, inside the picture; what lies far from them stays."""
    picture = np.full((height, width, 3), 90, np.uint8)
    box = [width * 0.25, height * 0.3, width * 0.7, height * 0.8]
    drawn = detections([box], (0.9,), (0,), ("cat",), (height, width)).draw(picture)
    assert drawn.size == (width, height)
    assert drawn.mode == "RGB"
    assert (picture == 90).all()  # the given picture is not painted on
    changed = (np.asarray(drawn) != 90).any(axis=2)
    assert changed.any()
    middle = np.asarray(drawn)[round(box[3]) if round(box[3]) < height else -1, round(width * 0.5)]
    assert middle.tolist() == list(class_color(0))
    if min(width, height) >= 100:
        share = changed.mean()
        assert 0.005 < share < 0.08  # lines and letters grow with the picture


def test_text_scales_with_the_picture() -> None:
    def text_height(width: int, height: int) -> int:
        found = detections([[0, height // 2, width, height]], (0.9,), (0,), ("cat",), (height, width))
        drawn = np.asarray(found.draw(np.zeros((height, width, 3), np.uint8)))
        return int(drawn[: height // 2, 1].any(axis=1).sum())  # the tag stands above the box at the left

    assert text_height(320, 240) >= 10
    assert text_height(6400, 4800) == pytest.approx(10 * text_height(640, 480), rel=0.1)


def test_highest_score_is_drawn_last() -> None:
    found = detections([[40, 40, 90, 90]] * 2, (0.9, 0.6), (1, 0))
    drawn = found.draw(np.zeros((100, 150, 3), np.uint8))
    assert drawn.getpixel((40, 65)) == class_color(1)


def test_only_what_scores_enough_is_drawn() -> None:
    picture = np.zeros((100, 150, 3), np.uint8)
    assert not np.asarray(detections().draw(picture, threshold=0.95)).any()
    assert np.asarray(detections().draw(picture, threshold=0.2)).sum() > np.asarray(detections().draw(picture)).sum()


@pytest.mark.parametrize("name", ["a\nb", "\x00", "x" * 5000, "Café", "猫", " ", "\u202e"])
@pytest.mark.parametrize("side", [2, 40, 600])
def test_any_name_and_box_can_be_drawn(name: str, side: int) -> None:
    boxes: list[list[float]] = [
        [np.nan, np.inf, -np.inf, 4],
        [1e9, -1e9, 3, 3],
        [side - 1, side - 1, side + 9, side + 9],
    ]
    found = detections(boxes, (0.9, 0.8, 0.7), (0, 0, 0), (name,), (side, side))
    assert found.draw(np.zeros((side, side, 3), np.uint8)).size == (side, side)


def test_draws_on_what_load_image_takes() -> None:
    assert detections().draw(Image.new("L", (150, 100))).mode == "RGB"
    with pytest.raises(ImageError, match="150 x 100 pixels, not of 100 x 150"):
        detections().draw(Image.new("RGB", (100, 150)))


def test_coco_classes_have_distinct_colors() -> None:
    colors = np.array([class_color(label) for label in range(80)], float)
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 999 * np.eye(80)
    assert distance.min() > 15
    assert distance[:8, :8].min() > 60
