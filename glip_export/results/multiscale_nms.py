"""Boxes of one picture seen several times, merged class by class (GLIP: engine/bbox_aug.py, structures/boxlist_ops.py).

Arithmetic is the original's: float32, and IoU with or without 1 added to widths and heights as each form has it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glip_export.config import MultiscaleConfig
from glip_export.results.nms import greedy, iou

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
SIGMA = np.float32(0.95)  # GLIP: boxlist_nms, soft-nms


class Boxes(NamedTuple):
    """N scored boxes of one picture."""

    boxes: F32  # (N, 4) xyxy, pixels
    scores: F32  # (N,)
    labels: I64  # (N,), from 0

    def part(self, which: I64 | NDArray[np.bool_]) -> Boxes:
        """Some of them."""
        return Boxes(self.boxes[which], self.scores[which], self.labels[which])


def merged(found: Boxes, config: MultiscaleConfig) -> Boxes:
    """What is left of all passes' boxes, by falling score; of equal scores the class, then the box that came first.

    Classes that SELECT_CLASSES and NUM_CLASSES leave out are lost. Where more than TEST.PRE_NMS_TOP_N are left, those
    that score at least as much as the last of so many stay, so that ties may leave more.
    """
    merge = _merger(config)
    parts = []
    for label in _classes(found.labels, config):
        own = np.flatnonzero(found.labels == label)
        boxes, scores = merge(found.boxes[own], found.scores[own])
        parts.append(Boxes(boxes, scores, np.full(len(scores), label, np.int64)))
    if not parts:
        return found.part(np.empty(0, np.int64))
    left = Boxes(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    if len(left.scores) > config.most > 0:
        left = left.part(left.scores >= np.partition(left.scores, -config.most)[-config.most])
    return left.part(np.argsort(-left.scores, kind="stable"))


def lost_classes(count: int, config: MultiscaleConfig) -> int:
    """How many of a prompt's `count` names the configuration leaves out (TEST.SELECT_CLASSES, TEST.NUM_CLASSES)."""
    return count - len(set(_classes(np.arange(count), config)))


def _classes(labels: I64, config: MultiscaleConfig) -> list[int]:
    """The labels that are merged, in the order of their merging; the configuration counts names from 1."""
    there = np.unique(labels)
    if config.select_classes:
        return [number - 1 for number in config.select_classes if number - 1 in there]
    return [int(label) for label in there if label + 1 < config.num_classes]


def _merger(config: MultiscaleConfig) -> Callable[[F32, F32], tuple[F32, F32]]:
    """Boxes (n, 4) and scores (n,) of one class to what is left of them."""
    if config.threshold <= 0:
        return lambda boxes, scores: (boxes, scores)
    threshold = config.threshold
    if config.special_nms == "vote":
        return partial(vote, threshold=threshold)
    if config.special_nms == "soft-vote":
        return partial(vote, threshold=threshold, lowest=config.soft_vote_score)
    if config.special_nms == "soft-nms":
        return partial(soft_nms, lowest=threshold)
    return partial(nms, threshold=threshold)


def nms(boxes: F32, scores: F32, threshold: float) -> tuple[F32, F32]:
    """Of boxes whose IoU is over the threshold the best; IoU without 1 added, as torchvision's.

    Two boxes of no area do not suppress each other. Of equal scores the earlier stays.
    """
    # float64 beside a threshold in float64: torchvision compares so
    kept = greedy(boxes, scores, lambda box, others: iou(box, others, 0).astype(np.float64) > threshold)
    return boxes[kept], scores[kept]


def vote(boxes: F32, scores: F32, threshold: float, lowest: float | None = None) -> tuple[F32, F32]:
    """The best with all that overlap it become their mean, weighted by score, with the best score; then the next best.

    Overlapping is an IoU of the threshold or more, 1 added. A box that nothing overlaps stays as it is, and so does a
    single one. Of equal scores the later comes first.

    lowest: for soft votes. Each box of such a group also stays itself, at its score times 1 - its IoU with the best, if
    that is `lowest` or more; then all are sorted.
    """
    if len(scores) <= 1:
        return boxes, scores
    order = np.argsort(scores, kind="stable")[::-1]
    parts: list[F32] = []
    scored = np.concatenate([boxes, scores[:, None]], axis=1)[order]  # (n, 5)
    while len(scored):
        overlap = iou(scored[0, :4], scored[:, :4], 1)
        joins = overlap >= np.float32(threshold)
        joins[0] = True  # a box of no area overlaps nothing, and the original would never end
        group, overlap, scored = scored[joins], overlap[joins], scored[~joins]
        if len(group) == 1:
            parts.append(group)
            continue
        mean = (group[:, :4] * group[:, 4:]).sum(axis=0) / group[:, 4:].sum()
        parts.append(np.append(mean, group[:, 4].max())[None])
        if lowest is not None:
            group[:, 4] *= 1 - overlap
            parts.append(group[group[:, 4] >= np.float32(lowest)])
    found = np.concatenate(parts)
    if lowest is not None:
        found = found[np.argsort(found[:, 4], kind="stable")[::-1]]
    return found[:, :4], found[:, 4]


def soft_nms(boxes: F32, scores: F32, lowest: float) -> tuple[F32, F32]:
    """The best lowers each other's score by exp(-IoU^2 / 0.95), 1 added; then the next best does, and so on.

    Those that fall under `lowest` go, but for the very best, which nothing lowers.
    """
    boxes, scores = boxes.copy(), scores.copy()
    kept_boxes, kept_scores = [], []
    while len(scores):
        best = int(scores.argmax())
        kept_boxes.append(boxes[best])
        kept_scores.append(scores[best])
        overlap = iou(boxes[best], boxes, 1)
        lowered = scores * np.exp(-(overlap * overlap) / SIGMA)
        stays = lowered >= np.float32(lowest)
        stays[best] = False
        boxes, scores = boxes[stays], lowered[stays]
    return np.array(kept_boxes, np.float32).reshape(-1, 4), np.array(kept_scores, np.float32)
