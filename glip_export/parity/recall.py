"""Whether a program of lower precision (bf16, fp16) finds the reference's detections again.

Rounding to 8 or 11 bits moves scores by a few thousandths, so what stands near the end of the list may fall off it,
and `pairing` would call too much a real difference. What counts is that those safely in the list come back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glip_export.parity.assignment import assign
from glip_export.parity.pairing import Detections

F64 = NDArray[np.float64]

MARGIN = 0.02  # a reference detection counts if its score is this far above the last one kept
IOU = 0.9
CORNER_PX = 2.0  # pixels; for boxes without area, which overlap nothing
SCORE = 0.03
SHARE = 0.95  # of the detections that count


@dataclass(frozen=True)
class Missing:
    """A reference detection that was not found again."""

    label: int
    score: float
    box: tuple[float, ...]  # xyxy in resized pixels


@dataclass(frozen=True)
class RecallDiff:
    """The outcome for one picture, or for several taken together; least_iou, box_px and score are among those found."""

    counted: int  # reference detections that count
    found: int
    least_iou: float  # of boxes with area; 1 if there are none
    box_px: float  # largest difference of a corner coordinate, pixels of the resized picture
    score: float  # largest difference of a score
    missing: tuple[Missing, ...]

    @property
    def recall(self) -> float:
        """The share found again; 1 where nothing counts, which a gate must look at too (`counted`)."""
        return self.found / self.counted if self.counted else 1.0

    def within(self, share: float = SHARE) -> bool:
        """At least this share was found again."""
        return self.recall >= share


def found_again(
    reference: Detections,
    candidate: Detections,
    margin: float = MARGIN,
    iou: float = IOU,
    corner_px: float = CORNER_PX,
    score: float = SCORE,
) -> RecallDiff:
    """How many of one picture's reference detections the candidate has too, each paired with one of its own.

    Those count that score `margin` or more above the last one kept. Found again is: the same class, a score within
    `score`, and an IoU over `iou`, or where one of the boxes has no area, every corner within `corner_px` pixels.
    A candidate's box or score that is not finite finds nothing; raises ValueError if the reference's is not.
    """
    boxes, scores, labels = _used(reference)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("the reference's own boxes or scores are NaN or infinite")
    counts = scores >= scores.min(initial=np.inf) + margin
    boxes, scores, labels = boxes[counts], scores[counts], labels[counts]
    other_boxes, other_scores, other_labels = _used(candidate)
    finite = np.isfinite(other_boxes).all(axis=1) & np.isfinite(other_scores)
    other_boxes, other_scores, other_labels = other_boxes[finite], other_scores[finite], other_labels[finite]

    overlaps = _iou(boxes, other_boxes)  # (N, M)
    corners = np.abs(boxes[:, None] - other_boxes[None]).max(axis=2, initial=0.0)
    score_distances = np.abs(scores[:, None] - other_scores[None])
    flat = ~_has_area(boxes)[:, None] | ~_has_area(other_boxes)[None]
    same = (labels[:, None] == other_labels[None]) & (score_distances <= score)
    same &= np.where(flat, corners <= corner_px, overlaps > iou)
    rows, columns = assign(corners / corner_px + score_distances / score, same)

    missing = np.setdiff1d(np.arange(len(scores)), rows)
    pairs = rows, columns
    return RecallDiff(
        counted=len(scores),
        found=len(rows),
        least_iou=float(overlaps[pairs][~flat[pairs]].min(initial=1.0)),
        box_px=float(corners[pairs].max(initial=0.0)),
        score=float(score_distances[pairs].max(initial=0.0)),
        missing=tuple(Missing(int(labels[i]), float(scores[i]), tuple(boxes[i].tolist())) for i in missing),
    )


def together(diffs: Iterable[RecallDiff]) -> RecallDiff:
    """Several pictures as one: numbers summed, the worst differences."""
    diffs = tuple(diffs)
    return RecallDiff(
        counted=sum(diff.counted for diff in diffs),
        found=sum(diff.found for diff in diffs),
        least_iou=min((diff.least_iou for diff in diffs), default=1.0),
        box_px=max((diff.box_px for diff in diffs), default=0.0),
        score=max((diff.score for diff in diffs), default=0.0),
        missing=tuple(item for diff in diffs for item in diff.missing),
    )


def _used(detections: Detections) -> tuple[F64, F64, NDArray[np.int64]]:
    """Boxes (N, 4), scores (N,) and labels (N,) without the empty slots."""
    labels = np.asarray(detections.labels, np.int64).reshape(-1)
    boxes = np.asarray(detections.boxes, np.float64).reshape(-1, 4)
    scores = np.asarray(detections.scores, np.float64).reshape(-1)
    return boxes[labels >= 0], scores[labels >= 0], labels[labels >= 0]


def _has_area(boxes: F64) -> NDArray[np.bool_]:
    return np.logical_and(boxes[:, 2] > boxes[:, 0], boxes[:, 3] > boxes[:, 1])


def _iou(a: F64, b: F64) -> F64:
    """(N, 4), (M, 4) -> (N, M); 0 where a box has no area."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    area_a, area_b = (np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
