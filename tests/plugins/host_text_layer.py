"""The kernels of a layer of BERT on the host shim, on arrays, and what they compute, by NumPy in float64."""

from __future__ import annotations

from math import erf, sqrt
from typing import TYPE_CHECKING

import numpy as np

from glip_export.trt.text_layer_launches import text_attention_launches, text_gelu_launches, text_norm_launches

if TYPE_CHECKING:
    from plugins.host_kernels import HostKernels

Limits = tuple[float, float]
NO_LIMITS = (-np.inf, np.inf)


def attention(
    host: HostKernels,
    qkv: np.ndarray,
    mask: np.ndarray,
    heads: int,
    scale: float,
    limits: Limits = NO_LIMITS,
    order: int = 0,
) -> np.ndarray:
    """qkv (B, T, 3 * C), mask float32 (B or 1, T) -> (B, T, C)."""
    batch, tokens, channels = qkv.shape
    out = np.full((batch, tokens, channels // 3), np.nan, qkv.dtype)
    sizes = batch, tokens, heads, channels // 3 // heads, len(mask)
    for launch in text_attention_launches(qkv.dtype, *sizes, scale, limits, qkv, mask, out):
        assert host.launch(launch, order) == 0
    return out


def norm(
    host: HostKernels,
    x: np.ndarray,
    added: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    epsilon: float,
    added_limits: Limits = NO_LIMITS,
    limits: Limits = NO_LIMITS,
    order: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """x float32 (R, C), added (R, C) -> float32 (R, C), and the same in added's type."""
    out, narrow = np.full(x.shape, np.nan, np.float32), np.full(x.shape, np.nan, added.dtype)
    arrays = x, added, weight, bias, out, narrow
    for launch in text_norm_launches(added.dtype, *x.shape, epsilon, added_limits, limits, *arrays):
        assert host.launch(launch, order) == 0
    return out, narrow


def gelu(host: HostKernels, x: np.ndarray, limits: Limits = NO_LIMITS, order: int = 0) -> np.ndarray:
    """x -> clamp(GELU(clamp(x)))."""
    out = np.full(x.shape, np.nan, x.dtype)
    for launch in text_gelu_launches(x.dtype, x.size, limits, x, out):
        assert host.launch(launch, order) == 0
    return out


def expected_attention(
    qkv: np.ndarray, mask: np.ndarray, heads: int, scale: float, limits: Limits = NO_LIMITS
) -> np.ndarray:
    """What `attention` gives."""
    batch, tokens, _ = qkv.shape
    q, k, v = qkv.astype(np.float64).reshape(batch, tokens, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    scores = np.clip(q @ k.swapaxes(2, 3) * scale, *limits) + mask[:, None, None, :].astype(np.float64)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    made = weights / weights.sum(-1, keepdims=True) @ v
    return made.swapaxes(1, 2).reshape(batch, tokens, -1)


def expected_norm(
    x: np.ndarray,
    added: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    epsilon: float,
    added_limits: Limits = NO_LIMITS,
    limits: Limits = NO_LIMITS,
) -> np.ndarray:
    """What `norm` gives in float32."""
    total = x.astype(np.float64) + np.clip(added.astype(np.float64), *added_limits)
    normed = (total - total.mean(1, keepdims=True)) / np.sqrt(total.var(1, keepdims=True) + epsilon)
    return np.clip(normed * weight + bias, *limits)


def expected_gelu(x: np.ndarray, limits: Limits = NO_LIMITS) -> np.ndarray:
    """What `gelu` gives."""
    clamped = np.clip(x.astype(np.float64), *limits)
    return np.clip([value * 0.5 * (1 + erf(value / sqrt(2))) for value in clamped.ravel()], *limits).reshape(x.shape)
