"""Non-maximum suppression in NumPy, as the original counts: widths and heights with 1 added, or without."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def kept_over_all_classes(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Indices (int64) of the boxes that stay, best first; of equal scores the smaller index comes first.

    boxes f32 (N, 4) xyxy pixels, scores f32 (N,). A box goes if its IoU with a kept one, whatever its class, is over
    iou_threshold.
    """
    return greedy(boxes, scores, lambda box, others: overlaps(box, others, iou_threshold))


def greedy(
    boxes: np.ndarray, scores: np.ndarray, suppresses: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Indices (int64) of the boxes (N, 4) that no better one suppresses, best first; of equal scores the earlier is.

    suppresses: whether a box (4,) suppresses each of those that score less (n, 4).
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[~suppresses(boxes[best], boxes[order])]
    return np.array(kept, np.int64)


def overlaps(box: np.ndarray, others: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Whether the IoU of (4,) with each of (n, 4) is over the threshold, in float32 as the graphs compute it."""
    return iou(box, others, 1) > np.float32(iou_threshold)


def iou(box: np.ndarray, others: np.ndarray, added: int) -> np.ndarray:
    """Of (4,) with each of (n, 4), in their type; `added` to widths and heights. NaN where neither has an area."""
    sizes, others_sizes = box[2:] - box[:2] + added, others[:, 2:] - others[:, :2] + added
    overlap = np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + added, 0)
    intersection = overlap[:, 0] * overlap[:, 1]
    union = sizes[0] * sizes[1] + others_sizes[:, 0] * others_sizes[:, 1] - intersection
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes of no area
        return intersection / union
