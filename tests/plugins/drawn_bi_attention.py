"""A bi-attention's arguments, drawn, and what the model's formula makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Of the largest value.
LIMITS = {"float32": 2e-5, "float16": 2e-3}
MASKED = -9e15
HEADS = 8


@dataclass(frozen=True)
class Drawn:
    """As the kernels take them, in float32, of values that halves hold."""

    v: np.ndarray  # (B, N, C)
    keys: np.ndarray  # (B, heads * T, C)
    bias: np.ndarray  # (B, heads * T)
    values: np.ndarray  # (B, heads * T, C)
    mask: np.ndarray  # (B, T)
    gain: np.ndarray  # (C,)
    offset: np.ndarray
    limits: tuple[float, float]


def draw(
    batch: int,
    positions: int,
    channels: int,
    tokens: int,
    *,
    heads: int = HEADS,
    spread: float = 3.0,
    limits: tuple[float, float] = (-50000.0, 50000.0),
    masked: float = MASKED,
) -> Drawn:
    """spread: the scores' deviation; each image's mask hides another number of tokens, the first's none."""
    rng = np.random.default_rng(positions + tokens)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float16).astype(np.float32)

    mask = np.ones((batch, tokens), np.float32)
    for image in range(batch):
        mask[image, tokens - image * tokens // max(batch - 1, 1) :] = masked
    rows = heads * tokens
    return Drawn(
        v=normal(batch, positions, channels),
        keys=normal(batch, rows, channels, scale=spread * channels**-0.5),
        bias=normal(batch, rows),
        values=normal(batch, rows, channels),
        mask=mask,
        gain=normal(channels),
        offset=normal(channels),
        limits=limits,
    )


def expected_of(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """to_text (B, heads * T, C) and the image's result (B, N, C), in float64 but for the sum with the mask."""
    v, keys, values = (array.astype(np.float64) for array in (drawn.v, drawn.keys, drawn.values))
    scores = np.clip(keys @ v.transpose(0, 2, 1) + drawn.bias[..., None], *drawn.limits)
    to_text = softmax(scores, 2) @ v
    batch, rows, positions = scores.shape
    by_head = scores.reshape(batch, -1, drawn.mask.shape[1], positions)
    # In float32, as in the model: of a token that is masked no score is left, of a head without tokens no difference.
    masked = np.where(drawn.mask[:, None, :, None] < -1e9, MASKED, by_head + drawn.mask[:, None, :, None])
    read = softmax(masked, 2).reshape(batch, rows, positions).transpose(0, 2, 1) @ values
    return to_text, v + drawn.gain * (read + drawn.offset)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    weights = np.exp(x - x.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)
