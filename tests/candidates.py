"""Candidates for NMS with many ties and overlaps, and what the model's own selection makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from glip_export.config import DetectionConfig
from glip_export.model.selection import Candidates, best_after_nms

LEVELS = len(DetectionConfig().anchor_strides)


def random_candidates(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int]:
    """boxes f32 (B, M, 4), scores f32 (B, M), labels int32 (B, M), the IoU threshold and D.

    Boxes and scores lie on coarse grids in every second case, so that equal scores and equal IoU are common.
    """
    rng = np.random.default_rng(seed)
    batch, many = int(rng.integers(1, 4)), LEVELS * int(rng.integers(1, 13))
    corner, size = rng.uniform(0, 60, (batch, many, 2)), rng.uniform(0, 40, (batch, many, 2))
    scores = rng.uniform(0, 1, (batch, many))
    if seed % 2:
        corner, size, scores = np.round(corner / 10) * 10, np.round(size / 10) * 10, np.round(scores * 5) / 5
    scores[rng.random((batch, many)) < rng.choice([0, 0.3, 0.9])] = -1
    labels = rng.integers(0, rng.choice([1, 3, 80]), (batch, many))
    detections = int(rng.choice([1, 5, many, many + 7]))
    boxes = np.concatenate([corner, corner + size], -1)
    threshold = float(rng.choice([0.0, 0.3, 0.6, 1.0]))
    return boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int32), threshold, detections


EDGES = {
    "none at all": lambda boxes, scores, labels: (boxes, np.full_like(scores, -1), labels),
    "only one": lambda boxes, scores, labels: (boxes, np.where(np.arange(scores.shape[1]) == 7, scores, -1), labels),
    "all scores equal": lambda boxes, scores, labels: (boxes, np.full_like(scores, 0.5), labels),
    "all scores zero": lambda boxes, scores, labels: (boxes, np.zeros_like(scores), labels),
    "one box for all": lambda boxes, scores, labels: (np.broadcast_to(boxes[:, :1], boxes.shape), scores, labels),
    "everything equal": lambda boxes, scores, labels: (
        np.broadcast_to(boxes[:1, :1], boxes.shape),
        np.full_like(scores, 0.5),
        np.zeros_like(labels),
    ),
    "no area": lambda boxes, scores, labels: (
        np.concatenate([boxes[..., :2], boxes[..., :2] - 1], -1),
        np.abs(scores),
        labels,
    ),
    "a class a box": lambda boxes, scores, labels: (
        np.broadcast_to(boxes[:1, :1], boxes.shape),
        np.abs(scores),
        np.broadcast_to(np.arange(labels.shape[1], dtype=np.int32), labels.shape),
    ),
}


def edge_candidates(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int]:
    """As random_candidates; the case of this name in EDGES."""
    boxes, scores, labels, _, _ = random_candidates(1)
    return *(np.ascontiguousarray(array) for array in EDGES[name](boxes, scores, labels)), 0.6, 12


def selected(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, threshold: float, detections: int
) -> tuple[np.ndarray, ...]:
    """boxes (B, D, 4), scores (B, D), labels int64 (B, D), count int64 (B,), as the PyTorch model selects."""
    config = replace(
        DetectionConfig(),
        nms_threshold=threshold,
        detections_per_image=detections,
        pre_nms_top_n=scores.shape[1] // LEVELS,
    )
    candidates = Candidates(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels.astype(np.int64))
    )
    return tuple(part.numpy() for part in best_after_nms(candidates, int(labels.max()) + 1, config))
