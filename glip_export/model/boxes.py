"""Anchors and the box code of GLIP (maskrcnn-benchmark's, with widths counted x2 - x1 + 1)."""

from __future__ import annotations

import math

import torch

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # GLIP: BoxCoder
MAX_LOG_SIZE = math.log(1000.0 / 16)  # GLIP: BoxCoder, "prevent sending too large values into exp"


def anchors_at(position: torch.Tensor, width: int, size: float, stride: int) -> torch.Tensor:
    """The anchor of each position of a level: int64 (...,), row-major in a map `width` wide -> xyxy pixels (..., 4)."""
    row = position // width
    column = position - row * width
    corner = torch.stack((column, row, column, row), -1).to(torch.float32) * stride
    low, high = (stride - 1) / 2 - (size - 1) / 2, (stride - 1) / 2 + (size - 1) / 2  # [-28, 35] at stride 8
    return corner + torch.tensor([low, low, high, high], device=position.device)


def decode(deltas: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Regressed (dx, dy, dw, dh) and anchors to boxes, (..., 4) each, xyxy in pixels."""
    sizes = anchors[..., 2:] - anchors[..., :2] + 1
    centres = (anchors[..., 2:] + anchors[..., :2]) / 2
    wx, wy, ww, wh = WEIGHTS
    shift = deltas[..., :2] / torch.tensor([wx, wy], device=deltas.device)
    growth = (deltas[..., 2:] / torch.tensor([ww, wh], device=deltas.device)).clamp(max=MAX_LOG_SIZE)
    centres = shift * sizes + centres
    half = 0.5 * (growth.exp() * sizes - 1)
    return torch.cat((centres - half, centres + half), -1)


def clip(boxes: torch.Tensor, image_sizes: torch.Tensor) -> torch.Tensor:
    """Boxes (B, n, 4) into [0, w-1] x [0, h-1] of each unpadded picture, image_sizes int64 (B, 2) as h, w.

    Boxes outside collapse on the border and stay.
    """
    limit = image_sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype) - 1  # (B, 1, 4) as w, h, w, h
    return torch.minimum(boxes.clamp(min=0), limit)
