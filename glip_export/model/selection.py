"""From the head's logits to detections: class scores, the best candidates of each level, NMS, the best D.

Where pictures are seen at several scales there is no NMS here: all candidates are given, best first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from glip_export.config import DetectionConfig
from glip_export.model.boxes import anchors_at, clip, decode
from glip_export.model.graph_ops import class_maximum, class_wise_nms, top_k

EMPTY = -1.0  # the score of a candidate that is none; real scores are never negative


class LevelPredictions(NamedTuple):
    """One level's raw predictions."""

    token_logits: torch.Tensor  # (B, Hl*Wl, T)
    box_deltas: torch.Tensor  # (B, 4, Hl, Wl)
    centerness: torch.Tensor  # (B, 1, Hl, Wl), logits


class Candidates(NamedTuple):
    """M boxes an image that go into NMS."""

    boxes: torch.Tensor  # (B, M, 4) xyxy, pixels of the resized picture
    scores: torch.Tensor  # (B, M), EMPTY where there is none
    labels: torch.Tensor  # int64 (B, M)


def select(
    levels: list[LevelPredictions], class_map: torch.Tensor, image_sizes: torch.Tensor, config: DetectionConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions of all levels -> boxes (B, D, 4), scores (B, D) falling, labels (B, D), count (B,).

    Empty places hold zeros and the label -1. Follows GLIP's ATSSPostProcessor, but that its ties at the last score may
    leave more than D detections; here D stay, of equals the smaller index first. With `several_scales` these are the
    candidates themselves.
    """
    per_level = [
        level_candidates(level, class_map, image_sizes, config, size, stride)
        for level, size, stride in zip(levels, config.anchor_sizes, config.anchor_strides, strict=True)
    ]
    boxes, scores, labels = (torch.cat(part, dim=1) for part in zip(*per_level, strict=True))
    candidates = Candidates(boxes, scores, labels)
    if config.several_scales:
        return best(candidates, scores, config.candidates)
    return best_after_nms(candidates, class_map.shape[2], config)


def class_scores(token_logits: torch.Tensor, class_map: torch.Tensor, aggregation: str) -> torch.Tensor:
    """Token logits (B, N, T) and class_map (B, T, K) -> class scores (B, N, K); 0 for a class without tokens."""
    if aggregation == "MAX":
        return class_maximum(token_logits.sigmoid(), class_map)
    if aggregation == "POWER":  # the geometric mean
        return (F.logsigmoid(token_logits) @ class_map).exp() * (class_map.sum(1, keepdim=True) > 0)
    return token_logits.sigmoid() @ class_map


def level_candidates(
    level: LevelPredictions,
    class_map: torch.Tensor,
    image_sizes: torch.Tensor,
    config: DetectionConfig,
    anchor_size: float,
    stride: int,
) -> Candidates:
    """The best pre_nms_top_n (position, class) pairs of one level; short levels are filled up with EMPTY ones."""
    classes = class_scores(level.token_logits, class_map, config.score_agg)  # (B, N, K)
    centerness = level.centerness.flatten(1).sigmoid()  # (B, N)
    # The threshold is on the class score alone, the ranking on its product with the centerness.
    scores = torch.where(classes > config.score_threshold, classes * centerness[:, :, None], EMPTY)
    k = config.pre_nms_top_n
    values, index = top_k(F.pad(scores.flatten(1), (0, k), value=EMPTY), k)
    num_classes, width = class_map.shape[2], level.box_deltas.shape[3]
    position = index // num_classes
    labels = index - position * num_classes
    position = torch.clamp(position, max=level.token_logits.shape[1] - 1)  # filled-up ones point past the end
    deltas = level.box_deltas.flatten(2).transpose(1, 2).gather(1, position[:, :, None].expand(-1, -1, 4))
    boxes = clip(decode(deltas, anchors_at(position, width, anchor_size, stride)), image_sizes)
    return Candidates(boxes, torch.where(values >= 0, values.clamp(min=0).sqrt(), EMPTY), labels)


def best_after_nms(
    candidates: Candidates, num_classes: int, config: DetectionConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class-wise NMS, then the D best: boxes (B, D, 4), scores (B, D), labels (B, D), count (B,)."""
    boxes, scores, labels = candidates
    kept = class_wise_nms(boxes, scores, labels, num_classes, config.nms_threshold)
    d = config.detections_per_image
    missing = max(0, d - config.candidates)  # fewer candidates than D
    return best(candidates, F.pad(torch.where(kept, scores, EMPTY), (0, missing), value=EMPTY), d)


def best(
    candidates: Candidates, scores: torch.Tensor, d: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The D best by `scores` (B, M or more): boxes (B, D, 4), scores (B, D), labels (B, D), count (B,)."""
    boxes, _, labels = candidates
    values, index = top_k(scores, d)
    found = values >= 0
    index = torch.where(found, index, 0)
    boxes = boxes.gather(1, index[:, :, None].expand(-1, -1, 4)) * found[:, :, None]
    labels = torch.where(found, labels.gather(1, index), -1)
    return boxes, values * found, labels, found.sum(1)
