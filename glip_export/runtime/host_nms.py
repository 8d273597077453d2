"""The end of an engine that stops at the candidates: class-wise NMS and the D best, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glip_export.config import DetectionConfig
from glip_export.results.nms import overlaps

CANDIDATES = ("candidate_boxes", "candidate_scores", "candidate_labels")  # outputs of a fusion head without NMS


def finished(candidates: Sequence[np.ndarray], detection: DetectionConfig) -> list[np.ndarray]:
    """The contract's outputs of a fusion head's CANDIDATES, in their order."""
    boxes, scores, labels = candidates
    if detection.several_scales:
        return list(ranked(boxes, scores, labels))
    return list(finish(boxes, scores, labels, detection.nms_threshold, detection.detections_per_image))


def finish(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou_threshold: float, detections: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Candidates to what the fusion head gives: boxes (B, D, 4), scores (B, D) falling, labels (B, D), count (B,).

    boxes f32 (B, M, 4) xyxy pixels, scores f32 (B, M), negative where there is no candidate, labels integer (B, M).
    A box goes if its IoU with a kept one of its class is over iou_threshold, widths and heights counted with + 1; of
    equal scores the smaller index comes first. Empty places hold zeros and the label -1; labels and count are int64.
    The rule of `model.graph_ops.class_wise_nms` and `model.selection.best_after_nms`.
    """
    batch = len(boxes)
    best_boxes = np.zeros((batch, detections, 4), np.float32)
    best_scores = np.zeros((batch, detections), np.float32)
    best_labels = np.full((batch, detections), -1, np.int64)
    count = np.zeros(batch, np.int64)
    for image in range(batch):
        kept = _kept(boxes[image], scores[image], labels[image], iou_threshold, detections)
        count[image] = len(kept)
        best_boxes[image, : len(kept)] = boxes[image, kept]
        best_scores[image, : len(kept)] = scores[image, kept]
        best_labels[image, : len(kept)] = labels[image, kept]
    return best_boxes, best_scores, best_labels, count


def ranked(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """As `finish`, without NMS and with all M: the rule of `model.selection.best`."""
    order = np.argsort(-scores, axis=1, kind="stable")
    boxes, scores, labels = (
        np.take_along_axis(boxes, order[:, :, None], 1),
        np.take_along_axis(scores, order, 1),
        np.take_along_axis(labels, order, 1),
    )
    found = scores >= 0
    return (
        np.where(found[:, :, None], boxes, np.float32(0)),
        np.where(found, scores, np.float32(0)),
        np.where(found, labels.astype(np.int64), -1),
        found.sum(1, dtype=np.int64),
    )


def _kept(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou_threshold: float, most: int) -> np.ndarray:
    """Indices of at most `most` survivors of one image, best first.

    All classes are walked through in one order of falling scores, so that the walk ends with the last detection:
    no more than `most` boxes are ever compared with the rest of their class.
    """
    candidates = np.flatnonzero(scores >= 0)
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    boxes, labels = boxes[order], labels[order]
    by_class = np.argsort(labels, kind="stable")  # each class's ranks, ascending, one class after the other
    place = np.empty(len(order), np.int64)
    place[by_class] = np.arange(len(order))
    end = np.searchsorted(labels[by_class], labels, side="right")  # of the class of each rank
    alive = np.ones(len(order), bool)
    kept: list[int] = []
    for rank in range(len(order)):
        if len(kept) == most:
            break
        if alive[rank]:
            kept.append(rank)
            rivals = by_class[place[rank] + 1 : end[rank]]
            alive[rivals[overlaps(boxes[rank], boxes[rivals], iou_threshold)]] = False
    return order[kept]
