"""Non-maximum suppression in NumPy, as the original counts: widths and heights with 1 added."""

from __future__ import annotations

import numpy as np


def kept_over_all_classes(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Indices (int64) of the boxes that stay, best first; of equal scores the smaller index comes first.

    boxes f32 (N, 4) xyxy pixels, scores f32 (N,). A box goes if its IoU with a kept one, whatever its class, is over
    iou_threshold.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[~overlaps(boxes[best], boxes[order], iou_threshold)]
    return np.array(kept, np.int64)


def overlaps(box: np.ndarray, others: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Whether the IoU of (4,) with each of (n, 4) is over the threshold, in float32 as the graphs compute it."""
    sizes, others_sizes = box[2:] - box[:2] + 1, others[:, 2:] - others[:, :2] + 1
    overlap = np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + 1, 0)
    intersection = overlap[:, 0] * overlap[:, 1]
    union = sizes[0] * sizes[1] + others_sizes[:, 0] * others_sizes[:, 1] - intersection
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes of no area
        return intersection / union > np.float32(iou_threshold)
