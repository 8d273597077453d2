"""What counts as found again, at each limit of the criterion."""

from __future__ import annotations

import numpy as np
import pytest

from glip_export.parity.pairing import Detections
from glip_export.parity.recall import Missing, found_again, together


def detections() -> Detections:
    """Ten boxes of 100 x 100 px far apart, scores from 0.9 down by 0.011; the last two are within 0.02 of the end."""
    left = np.arange(10, dtype=np.float32) * 200
    boxes = np.stack([left, left, left + 100, left + 100], axis=1)
    return Detections(boxes, (0.9 - 0.011 * np.arange(10)).astype(np.float32), np.arange(10) % 3)


def changed(index: int, box: tuple[float, ...] = (0, 0, 0, 0), score: float = 0.0, label: int = 0) -> Detections:
    """The same with one detection's box, score and label raised."""
    other = detections()
    other.boxes[index] += np.array(box, np.float32)
    other.scores[index] += score
    other.labels[index] += label
    return other


def test_the_same_detections_are_found_again() -> None:
    diff = found_again(detections(), detections())
    assert (diff.counted, diff.found, diff.recall, diff.missing) == (8, 8, 1.0, ())
    assert (diff.least_iou, diff.box_px, diff.score) == (1, 0, 0)
    assert diff.within()


def test_order_and_empty_slots_mean_nothing() -> None:
    boxes, scores, labels = (np.concatenate([array[::-1], array[:3] * 0]) for array in detections())
    labels[10:] = -1
    assert found_again(detections(), Detections(boxes, scores, labels)).recall == 1
    assert found_again(Detections(boxes, scores, labels), detections()).counted == 8


def test_only_detections_above_the_margin_count() -> None:
    assert found_again(detections(), changed(8, label=9)).missing == ()
    diff = found_again(detections(), changed(4, label=9))
    assert (diff.counted, diff.found) == (8, 7)
    assert diff.missing == (Missing(1, pytest.approx(0.856), (800, 800, 900, 900)),)
    assert found_again(detections(), changed(8, label=9), margin=0).counted == 10


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (changed(0, box=(5, 0, 0, 0)), True),  # IoU 0.95
        (changed(0, box=(11, 0, 0, 0)), False),  # 0.89
        (changed(0, box=(4, 4, 4, 4)), False),  # 0.85, though every corner moved by 4 px only
        (changed(0, score=0.029), True),
        (changed(0, score=-0.031), False),
        (changed(0, label=1), False),
        (changed(0, score=np.nan), False),
        (changed(0, box=(np.inf, 0, 0, 0)), False),
    ],
)
def test_the_limits_of_iou_score_and_class(other: Detections, found: bool) -> None:
    diff = found_again(detections(), other)
    assert diff.found == 7 + found
    assert diff.within(0.95) == found


@pytest.mark.parametrize(("move", "found"), [(1.9, True), (2.1, False)])
def test_a_box_without_area_is_held_to_its_corners(move: float, found: bool) -> None:
    reference, other = detections(), detections()
    reference.boxes[0] = (0, 20, 0, 90)  # clipped at the border
    other.boxes[0] = (0, 20, move, 90 + move)
    diff = found_again(reference, other)
    assert diff.found == 7 + found
    assert diff.least_iou == 1  # the others'
    assert diff.box_px == pytest.approx(move if found else 0)


def test_one_detection_is_found_by_one_only() -> None:
    reference = detections()
    reference.boxes[1], reference.labels[1] = reference.boxes[0], reference.labels[0]
    other = Detections(*(np.delete(array, 1, axis=0) for array in reference))
    assert found_again(reference, reference).found == 8
    assert found_again(reference, other).found == 7


def test_a_picture_without_detections_lacks_none() -> None:
    none = Detections(np.zeros((5, 4)), np.zeros(5), np.full(5, -1))
    assert found_again(none, detections()).recall == 1
    assert found_again(detections(), none).recall == 0
    assert not found_again(detections(), none).within()


def test_a_reference_that_is_not_finite_is_no_reference() -> None:
    with pytest.raises(ValueError, match="reference"):
        found_again(changed(0, score=np.nan), detections())


def test_pictures_together() -> None:
    diffs = [
        found_again(detections(), other) for other in (changed(0, label=1), changed(1, box=(5, 0, 0, 0), score=0.02))
    ]
    both = together(diffs)
    assert (both.counted, both.found, len(both.missing)) == (16, 15, 1)
    assert both.recall == 15 / 16
    assert both.box_px == 5 and both.score == pytest.approx(0.02) and both.least_iou == pytest.approx(0.95)
    assert together([]).recall == 1
