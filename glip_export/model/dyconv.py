"""DyConv: scale-aware, spatial-aware and task-aware attention of the dynamic head (Dai et al., CVPR 2021)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from glip_export.config import HeadConfig
from glip_export.model.graph_ops import modulated_deform_conv
from glip_export.model.vl_fuse import Features


class DyConv(nn.Module):
    """Each level from itself and its neighbours, by deformable convolutions that share the level's offsets.

    DyConv[0] runs on the next (smaller) level, DyConv[1] on the level itself, DyConv[2] with stride 2 on the previous
    (larger) one. Each term is weighted by its own attention, the terms are averaged, then goes DyReLU.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        channels = config.channels
        self.offset = nn.Conv2d(channels, 27, 3, padding=1)
        self.DyConv = nn.ModuleList(DeformConvNorm(config, stride) for stride in (1, 1, 2))
        self.AttnConv = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 1, 1), nn.ReLU())
        self.relu = DyReLU(channels)

    def forward(
        self, features: Features, text: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[Features, torch.Tensor]:
        """P3..P7, text -> P3..P7 of the same shapes, text as given."""
        levels = [self._level(features, level) for level in range(len(features))]
        return tuple(self.relu(level) for level in levels), text

    def _level(self, features: Features, level: int) -> torch.Tensor:
        feature = features[level]  # (B, C, H, W)
        offset_mask = self.offset(feature)
        offset, mask = offset_mask[:, :18], offset_mask[:, 18:].sigmoid()
        terms = [self.DyConv[1](feature, offset, mask)]
        if level > 0:
            terms.append(self.DyConv[2](features[level - 1], offset, mask))
        if level < len(features) - 1:
            smaller = features[level + 1]
            small_offset, small_mask = reread(offset, smaller), reread(mask, smaller)
            term = self.DyConv[0](smaller, small_offset, small_mask)
            terms.append(F.interpolate(term, size=feature.shape[2:], mode="bilinear", align_corners=True))
        weighted = [term * h_sigmoid(self.AttnConv(term)) for term in terms]
        return torch.stack(weighted).mean(0)


def reread(values: torch.Tensor, smaller: torch.Tensor) -> torch.Tensor:
    """The raw-memory rule: offsets of a level as the original's kernel reads them for the next, smaller one.

    The kernel indexes the offsets' memory with its output's size, so image b reads the first C*Hc*Wc floats of
    values[b] as (C, Hc, Wc). It is no crop and no resize, and the released weights were trained with it.

    values (B, C, H, W), smaller (B, *, Hc, Wc) -> (B, C, Hc, Wc).
    """
    batch, channels = values.shape[:2]
    height, width = smaller.shape[2:]
    return values.flatten(1)[:, : channels * height * width].reshape(batch, channels, height, width)


class DeformConvNorm(nn.Module):
    """Modulated deformable 3x3 convolution and GroupNorm."""

    def __init__(self, config: HeadConfig, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(config.channels, config.channels, 3)  # holds weight and bias
        self.bn = nn.GroupNorm(
            config.group_norm_groups, config.channels
        )  # the original reads no GROUP_NORM.EPSILON here

    def forward(self, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W), (B, 18, Ho, Wo), (B, 9, Ho, Wo) -> (B, C, Ho, Wo)."""
        return self.bn(modulated_deform_conv(x, offset, mask, self.conv.weight, self.conv.bias, self.stride))


class DyReLU(nn.Module):
    """Dynamic ReLU (Chen et al., ECCV 2020): the larger of two lines whose slopes and offsets the input chooses."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, 4 * channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = h_sigmoid(self.fc(x.mean((2, 3))))[:, :, None, None]  # (B, 4*C, 1, 1)
        a1, b1, a2, b2 = (y - 0.5).chunk(4, dim=1)
        return torch.maximum(x * (a1 * 2 + 1) + b1, x * (a2 * 2) + b2)


def h_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """relu6(x + 3) / 6."""
    return F.relu6(x + 3) / 6
