"""Swin's attention within windows: drawn arguments, and the model's own form of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from glip_export.model.swin_block import Block

LIMITS = {"float32": 2e-6, "float16": 2e-3}  # of the largest value


def drawn_windows(
    batch: int, height: int, width: int, heads: int, depth: int, window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """qkv (B, H, W, 3C), its bias (3C,) and relative (heads, n, n) float32, all of them halves."""
    rng = np.random.default_rng(height * width + heads)
    qkv = rng.normal(0, 1.5, (batch, height, width, 3 * heads * depth))
    bias, relative = rng.normal(0, 1, 3 * heads * depth), rng.normal(0, 2, (heads, window**2, window**2))
    return tuple(array.astype(np.float16).astype(np.float32) for array in (qkv, bias, relative))  # type: ignore[return-value]


def attend_to_windows(
    qkv: torch.Tensor, bias: torch.Tensor, relative: torch.Tensor, window: int, shift: int, scale: float
) -> torch.Tensor:
    """(B, H, W, 3C), (3C,), (heads, n, n) -> (B, H, W, C), in the type of qkv; what pads the map is the bias."""
    block: Any = SimpleNamespace(window=window, shift=shift)
    windows, mask = Block.to_windows(block, qkv - bias)
    parts = (windows + bias).unflatten(-1, (3, len(relative), -1))
    q, k, v = parts.permute(3, 0, 1, 4, 2, 5).unbind(0)  # (B, windows, heads, n, depth) each
    scores = (q * scale) @ k.transpose(-2, -1) + relative
    if mask is not None:
        scores = scores + mask[:, None]
    made = (scores.softmax(-1) @ v).transpose(2, 3).flatten(-2)
    return Block.from_windows(block, made, torch.Size((*qkv.shape[:3], made.shape[-1])))
