"""Rows to add and to normalize, drawn; what our kernel makes of them, in float64."""

from __future__ import annotations

import numpy as np

LIMITS = {"float32": 1e-6, "float16": 1e-3}  # of the largest value
KINDS = [("float32", "float32"), ("float32", "float16"), ("float16", "float16")]  # of x, and of the rest
Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def norm_rows(rows: int, channels: int, x_dtype: str, dtype: str) -> Rows:
    """x far from zero, what is added, its bias, the norm's weight and bias."""
    rng = np.random.default_rng(rows * channels)
    x, added = rng.normal(3, 1, (rows, channels)), rng.normal(0, 2, (rows, channels))
    bias, weight, shift = rng.normal(0, 1, (3, channels)).astype(np.float32)
    return x.astype(x_dtype), added.astype(dtype), bias, weight, shift


def sum_and_norm(rows: Rows, epsilon: float, adds: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The sum and its norm."""
    x, added, bias, weight, shift = (array.astype(np.float64) for array in rows)
    total = x + added + bias if adds else x
    distance = total - total.mean(-1, keepdims=True)
    return total, distance / np.sqrt((distance**2).mean(-1, keepdims=True) + epsilon) * weight + shift
