"""GLIP's three losses: which tokens a position shows, where its box is, and how central it lies in it.

Beside them stands MDETR's soft token prediction, which a model that starts from nothing may need to bind words at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

from glip_export.config import DetectionConfig
from glip_export.model.boxes import decode
from glip_export.model.selection import LevelPredictions
from glip_export.training.assignment import assign, centerness_targets, pyramid_anchors
from glip_export.training.settings import TrainingSettings


class Objects(NamedTuple):
    """The objects of one picture."""

    boxes: torch.Tensor  # (G, 4) xyxy, resized pixels
    tokens: torch.Tensor  # (G, T), 1/n on the n tokens that name the object: GLIP's positive map


class Losses(NamedTuple):
    """Scalars, weighted."""

    tokens: torch.Tensor
    boxes: torch.Tensor
    centerness: torch.Tensor
    soft_tokens: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """Their sum."""
        return self.tokens + self.boxes + self.centerness + self.soft_tokens


def detection_losses(
    levels: Sequence[LevelPredictions],
    objects: Sequence[Objects],
    attention_mask: torch.Tensor,
    config: DetectionConfig,
    settings: TrainingSettings,
    soft_token_weight: float = 0.0,
) -> Losses:
    """The losses of a batch (GLIP: ATSSLossComputation).

    levels: P3..P7, token logits (B, n, T), deltas (B, 4, h, w), centerness logits (B, 1, h, w); objects: one a
    picture; attention_mask int64 (B, T). The token loss goes over all positions and real tokens, per positive
    position; the box loss over the positive positions, weighted by centerness; the centerness loss over them too.
    """
    sizes = [(level.centerness.shape[2], level.centerness.shape[3]) for level in levels]
    per_level = pyramid_anchors(sizes, config)
    anchors = torch.cat(per_level)  # (N, 4)
    token_logits = torch.cat([level.token_logits for level in levels], 1)  # (B, N, T)
    deltas = torch.cat([level.box_deltas.flatten(2) for level in levels], 2).transpose(1, 2)  # (B, N, 4)
    centerness = torch.cat([level.centerness.flatten(1) for level in levels], 1)  # (B, N)

    token_targets = torch.zeros_like(token_logits)
    positive = torch.zeros_like(centerness, dtype=torch.bool)
    matched = []
    for image, (boxes, tokens) in enumerate(objects):
        owner = assign(per_level, boxes, settings.top_k)
        positive[image] = owner >= 0
        token_targets[image, positive[image]] = tokens[owner[positive[image]]]
        matched.append(boxes[owner[positive[image]]])
    targets = torch.cat(matched)  # (P, 4), in the order of `positive`
    count = max(len(targets), 1)
    token_loss = focal_loss(token_logits, token_targets, attention_mask, settings.alpha, settings.gamma) / count
    token_loss = token_loss * settings.token_weight
    if not len(targets):
        return Losses(token_loss, deltas.sum() * 0, centerness.sum() * 0, token_logits.sum() * 0)

    positive_anchors = anchors.expand(len(objects), -1, -1)[positive]
    central = centerness_targets(positive_anchors, targets)
    box_losses = giou_loss(decode(deltas[positive], positive_anchors), targets)
    centerness_loss = F.binary_cross_entropy_with_logits(centerness[positive], central, reduction="sum") / count
    box_loss = settings.box_weight * (box_losses * central).sum() / central.sum()
    real = attention_mask[:, None].expand_as(token_logits)[positive]
    soft_token = soft_token_loss(token_logits[positive], token_targets[positive], real) / count
    return Losses(token_loss, box_loss, centerness_loss, soft_token_weight * soft_token)


def focal_loss(
    logits: torch.Tensor, targets: torch.Tensor, attention_mask: torch.Tensor, alpha: float, gamma: float
) -> torch.Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017), summed over the real tokens; targets may lie between 0 and 1.

    logits, targets (B, N, T), attention_mask (B, T) -> a scalar (GLIP: token_sigmoid_binary_focal_loss).
    """
    p = logits.sigmoid()
    wrong = p + targets - 2 * p * targets  # 1 - p_t
    weight = (alpha * targets + (1 - alpha) * (1 - targets)) * wrong**gamma
    loss = weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (loss * (attention_mask > 0)[:, None]).sum()


def soft_token_loss(logits: torch.Tensor, targets: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Soft token prediction (Kamath et al., MDETR, ICCV 2021): cross-entropy over the caption's real tokens, summed.

    logits, targets (P, T), a row of which sums to one, attention_mask (P, T) -> a scalar. Sigmoids are trained one by
    one; this compares the tokens of a position with each other. GLIP itself does without.
    """
    among_real = logits.masked_fill(attention_mask == 0, float("-inf")).log_softmax(-1)
    return -(targets * among_real.masked_fill(attention_mask == 0, 0)).sum()


def giou_loss(boxes: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - GIoU (Rezatofighi et al., CVPR 2019) of each pair, (n, 4), (n, 4) xyxy -> (n,); widths are x2 - x1 here.

    A box whose corners are swapped counts as having no area.
    """
    top_left, bottom_right = boxes[:, :2], torch.maximum(boxes[:, :2], boxes[:, 2:])
    overlap = torch.minimum(bottom_right, targets[:, 2:]) - torch.maximum(top_left, targets[:, :2])
    intersection = overlap.clamp(min=0).prod(-1)
    areas = (bottom_right - top_left).prod(-1) + (targets[:, 2:] - targets[:, :2]).prod(-1)
    union = areas - intersection + 1e-7  # GLIP: both guards
    hull = torch.maximum(bottom_right, targets[:, 2:]) - torch.minimum(top_left, targets[:, :2])
    enclosing = hull.prod(-1) + 1e-7
    return 1 - intersection / union + (enclosing - union) / enclosing
