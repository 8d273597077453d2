"""A head's predictions, drawn, and their candidates in NumPy: what the kernels must give to the bit."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from glip_export.trt.kernels import CandidateLevel, CandidateSizes

_EXPF = ctypes.CDLL(None).expf  # the C library's, as in the kernels on the host shim: NumPy's own may differ by an ulp
_EXPF.restype, _EXPF.argtypes = ctypes.c_float, (ctypes.c_float,)
F32 = np.float32

THRESHOLD = 0.05
LEVELS = (
    CandidateLevel(12, 17, 64.0, 8, 1.25),
    CandidateLevel(6, 9, 128.0, 16, 0.75),
    CandidateLevel(3, 5, 45.25, 32),
    CandidateLevel(2, 3, 512.0, 64),
    CandidateLevel(1, 2, 1024.0, 128, 2.0),
)


@dataclass
class Drawn:
    """Arguments of the kernels."""

    sizes: CandidateSizes
    classes: list[np.ndarray]
    centerness: list[np.ndarray]
    deltas: list[np.ndarray]
    image_sizes: np.ndarray
    threshold: float = THRESHOLD


def drawn(
    B: int, K: int, k: int, levels: Sequence[CandidateLevel] = LEVELS, dtype: str = "float32", over: float = 0.3
) -> Drawn:
    """Pictures of different sizes, of whose pairs the share `over` is over the threshold; deltas far over the edges."""
    rng = np.random.default_rng([B, K, k])
    sizes = CandidateSizes(B, K, k, tuple(levels))
    classes, centerness, deltas = [], [], []
    for level in levels:
        scores = rng.uniform(0, 1, (B, level.positions, K)).astype(F32)
        classes.append(np.where(rng.random(scores.shape) < over, scores, F32(THRESHOLD)))
        centerness.append(rng.normal(0, 2, (B, 1, level.height, level.width)).astype(dtype))
        spread = rng.choice([0.1, 3.0, 40.0], (B, 4, level.height, level.width))
        deltas.append((rng.normal(0, 1, spread.shape) * spread).astype(dtype))
    image_sizes = np.stack([60 + 13 * np.arange(B), 130 - 7 * np.arange(B)], -1).astype(np.int64)
    return Drawn(sizes, classes, centerness, deltas, image_sizes)


def with_ties(given: Drawn, values: int) -> Drawn:
    """The same with so many different scores: of 1 all are equal."""
    classes = [np.ceil(array * values) / F32(values) for array in given.classes]
    return replace(given, classes=classes, centerness=[np.zeros_like(array) for array in given.centerness])


def plain_candidates(given: Drawn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`model.selection.level_candidates` of all levels, but that empty places are zeros: boxes, scores, labels."""
    levels = zip(given.sizes.levels, given.classes, given.centerness, given.deltas, strict=True)
    parts = [_of_level(given, *level) for level in levels]
    boxes, scores, labels = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return boxes, scores, labels.astype(np.int32)


def _of_level(
    given: Drawn, level: CandidateLevel, classes: np.ndarray, centerness: np.ndarray, deltas: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    B, K, k = given.sizes.B, given.sizes.K, given.sizes.k
    centres = F32(1) / (F32(1) + _exp(-centerness.astype(F32).reshape(B, -1)))
    scores = np.where(classes > F32(given.threshold), classes * centres[:, :, None], F32(-1)).reshape(B, -1)
    scores = np.concatenate([scores, np.full((B, k), -1, F32)], 1)
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(scores, index, 1)
    found = values >= 0
    index = np.where(found, index, 0)
    position, labels = index // K, index % K
    rows = deltas.reshape(B, -1, 4) if level.channels_last else deltas.reshape(B, 4, -1).transpose(0, 2, 1)
    moves = np.take_along_axis(rows, position[:, :, None], 1).astype(F32) * F32(level.scale)
    boxes = _clipped(_decoded(moves, level, position), given.image_sizes)
    with np.errstate(invalid="ignore"):
        roots = np.where(found, np.sqrt(values), F32(-1))
    return np.where(found[:, :, None], boxes, F32(0)), roots, np.where(found, labels, 0)


def _decoded(moves: np.ndarray, level: CandidateLevel, position: np.ndarray) -> np.ndarray:
    low, high = ((level.stride - 1) / 2 + side * (level.anchor_size - 1) / 2 for side in (-1, 1))
    corner = np.stack([position % level.width, position // level.width], -1).astype(F32) * F32(level.stride)
    first, last = corner + F32(low), corner + F32(high)
    sizes, centres = last - first + F32(1), (last + first) / F32(2)
    centres = moves[..., :2] / F32(10) * sizes + centres
    growth = np.minimum(moves[..., 2:] / F32(5), F32(np.log(1000 / 16)))
    half = F32(0.5) * (_exp(growth) * sizes - F32(1))
    return np.concatenate([centres - half, centres + half], -1)


def _clipped(boxes: np.ndarray, image_sizes: np.ndarray) -> np.ndarray:
    limit = np.tile(image_sizes[:, None, ::-1], (1, 1, 2)).astype(F32) - F32(1)
    return np.minimum(np.maximum(boxes, F32(0)), limit)


def _exp(x: np.ndarray) -> np.ndarray:
    return np.array([_EXPF(value) for value in x.ravel().tolist()], F32).reshape(x.shape)
