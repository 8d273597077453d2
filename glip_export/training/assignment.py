"""ATSS (Zhang et al., CVPR 2020): which anchors learn which object."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from glip_export.config import DetectionConfig
from glip_export.model.boxes import anchors_at

INSIDE = 0.01  # GLIP: pixels an anchor's centre must lie within the object


def pyramid_anchors(sizes: Sequence[tuple[int, int]], config: DetectionConfig) -> list[torch.Tensor]:
    """The anchors of levels of (h, w) positions: xyxy pixels, (h*w, 4) each, row-major."""
    return [
        anchors_at(torch.arange(height * width), width, size, stride)
        for (height, width), size, stride in zip(sizes, config.anchor_sizes, config.anchor_strides, strict=True)
    ]


def assign(anchors: Sequence[torch.Tensor], boxes: torch.Tensor, top_k: int) -> torch.Tensor:
    """The object each anchor learns: levels of anchors (n, 4), boxes (G, 4), all xyxy -> int64 (N,), -1 for none.

    Of each level the top_k anchors nearest to an object's centre are candidates; those whose IoU reaches the
    candidates' mean plus standard deviation and whose centre is in the object learn it, the best one if several do.
    """
    every = torch.cat(list(anchors))
    if not len(boxes):
        return torch.full((len(every),), -1)
    overlaps = pairwise_iou(every, boxes)  # (N, G)
    centres = (every[:, :2] + every[:, 2:]) / 2
    distances = (centres[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).square().sum(-1)  # squared, (N, G)
    starts = [0]
    for level in anchors:
        starts.append(starts[-1] + len(level))
    candidates = torch.cat(
        [
            distances[start:end].topk(min(top_k, end - start), dim=0, largest=False).indices + start
            for start, end in pairwise(starts)
        ]
    )  # (up to top_k * levels, G)
    candidate_overlaps = overlaps.gather(0, candidates)
    threshold = candidate_overlaps.mean(0) + candidate_overlaps.std(0)
    at = centres[candidates]  # (candidates, G, 2)
    inside = torch.cat((at - boxes[:, :2], boxes[:, 2:] - at), -1).amin(-1) > INSIDE
    positive = (candidate_overlaps >= threshold) & inside
    allowed = torch.zeros_like(overlaps, dtype=torch.bool).scatter_(0, candidates, positive)
    best, index = torch.where(allowed, overlaps, -1.0).max(1)
    return torch.where(best >= 0, index, -1)


def pairwise_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """IoU of every pair, (n, 4), (m, 4) xyxy -> (n, m), widths and heights counted x2 - x1 + 1 as in GLIP."""
    top_left = torch.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    intersection = (bottom_right - top_left + 1).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(-1) for boxes in (first, second)]
    return intersection / (areas[0][:, None] + areas[1][None, :] - intersection)


def centerness_targets(anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """How central an anchor's centre lies in its box, 1 in the middle, 0 at the border: (n, 4), (n, 4) -> (n,)."""
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    before, after = centres - boxes[:, :2], boxes[:, 2:] - centres  # left and top, right and bottom
    return (torch.minimum(before, after) / torch.maximum(before, after)).prod(-1).sqrt()
