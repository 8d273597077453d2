"""Whether a backend found what the reference found in the same run: no one is fast by being wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glip_export.parity.assignment import assign
from glip_export.parity.metrics import Tolerance
from glip_export.parity.pairing import Detections, pair

Array = NDArray[Any]

# Half precision moves scores by more than neighbours in rank lie apart, so which detections are kept may differ near
# the last one. What stands clear of it must be found again.
CLEAR = 0.02  # score above the last one kept from which a detection has to be found
FOUND_IOU = 0.9
FOUND_PX = 2.0  # pixels of the resized picture, where a box has no area
FOUND_SCORE = 0.03
FOUND_SHARE = 0.95
LOW_TOLERANCE = Tolerance(box_px=FOUND_PX, score=FOUND_SCORE)


@dataclass(frozen=True)
class Agreement:
    """One backend's detections against the reference's, all pictures and captions of a run together."""

    paired: int
    real: int  # differences that rounding does not explain (see parity.pairing)
    max_box_diff_px: float  # pixels of the resized picture, among the pairs
    max_score_diff: float
    clear: int  # the reference's detections that stand CLEAR above the last one kept
    found: int  # of those, the ones found again
    within: bool


def agree(
    reference: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]], precision: str, nms_threshold: float
) -> Agreement:
    """Compare the fusion head's calls of one run, each {"boxes" (B, D, 4), "scores" (B, D), "labels" (B, D)}.

    fp32 must keep the end-to-end tolerance of parity; bf16 and fp16 must find FOUND_SHARE of the clear ones again.
    """
    exact = precision == "fp32"
    tolerance = Tolerance() if exact else LOW_TOLERANCE
    pictures = list(zip(_pictures(reference), _pictures(candidate), strict=True))
    diffs = [pair(want, have, tolerance, nms_threshold) for want, have in pictures]
    counts = [found_again(want, have) for want, have in pictures]
    clear, found = sum(count[0] for count in counts), sum(count[1] for count in counts)
    return Agreement(
        paired=sum(diff.paired for diff in diffs),
        real=sum(len(diff.real) for diff in diffs),
        max_box_diff_px=max((diff.box_px for diff in diffs), default=0.0),
        max_score_diff=max((diff.score for diff in diffs), default=0.0),
        clear=clear,
        found=found,
        within=all(diff.within(tolerance) for diff in diffs) if exact else found >= FOUND_SHARE * clear,
    )


def found_again(want: Detections, have: Detections) -> tuple[int, int]:
    """(clear, found): the reference's detections that stand clear of the last one kept, and those found again.

    Found again: same class, IoU over 0.9 (or, without an area, corners within 2 px), score within 0.03; each detection
    of the candidate is taken once.
    """
    boxes, scores, labels = _used(want)
    other_boxes, other_scores, other_labels = _used(have)
    clear = scores >= scores.min(initial=np.inf) + CLEAR
    boxes, scores, labels = boxes[clear], scores[clear], labels[clear]
    corner_distance = np.abs(boxes[:, None] - other_boxes[None]).max(axis=2, initial=0.0)  # (N, M) pixels
    flat = ((boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1]))[:, None]
    same_place = np.where(flat, corner_distance <= FOUND_PX, _iou(boxes, other_boxes) > FOUND_IOU)
    allowed = (
        same_place
        & (labels[:, None] == other_labels[None])
        & (np.abs(scores[:, None] - other_scores[None]) <= FOUND_SCORE)
    )
    rows, _ = assign(np.where(allowed, corner_distance, 0.0), allowed)
    return len(scores), len(rows)


def _pictures(calls: Sequence[Mapping[str, Any]]) -> list[Detections]:
    return [
        Detections(np.array(boxes), np.array(scores), np.array(labels))
        for call in calls
        for boxes, scores, labels in zip(call["boxes"], call["scores"], call["labels"], strict=True)
    ]


def _used(detections: Detections) -> tuple[Array, Array, Array]:
    """Without empty slots and values that are not finite, which are found nowhere."""
    boxes, scores = np.asarray(detections.boxes, np.float64), np.asarray(detections.scores, np.float64)
    labels = np.asarray(detections.labels)
    used = (labels >= 0) & np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    return boxes[used], scores[used], labels[used]


def _iou(a: Array, b: Array) -> Array:
    """(N, 4), (M, 4) -> (N, M)."""
    shared = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    intersection = np.maximum(shared, 0).prod(axis=2)
    areas = [np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1) for boxes in (a, b)]
    return intersection / np.maximum(areas[0][:, None] + areas[1][None] - intersection, 1e-9)
