"""How the CUDA kernels that find the NMS's candidates are launched (plugins/kernels/candidates.cuh), as data."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glip_export.trt.launches import (
    BOX_BYTES,
    DTYPES,
    MAX_CANDIDATES,
    MAX_COUNT,
    MAX_GRID,
    Launch,
    Memory,
    Part,
    checked_dtype,
    checked_pointer,
    up,
    workspace_bytes,
    workspace_pointers,
)

MAX_LEVELS = 6

_THREADS, _FINISHED_THREADS = 256, 64
_CHUNK = 4096  # pairs of a position and a class that a block goes through
_HISTOGRAMS, _BINS = 3, 2048
_CUT_WORDS = _THREADS + 16 + 2
_KEY_TILE = 1024


class CandidateLevels(ctypes.Structure):
    """The kernels' argument of the same name."""

    _fields_ = (
        ("count", ctypes.c_int32),
        ("classes", ctypes.c_int32),
        ("chunks", ctypes.c_int32),
        ("positions", ctypes.c_int32 * MAX_LEVELS),
        ("width", ctypes.c_int32 * MAX_LEVELS),
        ("channels_last", ctypes.c_int32 * MAX_LEVELS),
        ("stride", ctypes.c_float * MAX_LEVELS),
        ("low", ctypes.c_float * MAX_LEVELS),
        ("high", ctypes.c_float * MAX_LEVELS),
        ("scale", ctypes.c_float * MAX_LEVELS),
    )


@dataclass(frozen=True)
class CandidateLevel:
    """A level's size, its anchors (side and stride in pixels), and its deltas' factor and order."""

    height: int
    width: int
    anchor_size: float
    stride: int
    scale: float = 1.0
    channels_last: bool = False  # deltas (B, H, W, 4) in place of (B, 4, H, W)

    @property
    def positions(self) -> int:
        """N of the level."""
        return self.height * self.width


@dataclass(frozen=True)
class CandidateSizes:
    """B pictures, K classes, the k best of each level. Raises ValueError for sizes that the kernels do not take."""

    B: int
    K: int
    k: int
    levels: tuple[CandidateLevel, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.levels) <= MAX_LEVELS or min(self.K, self.k) < 1 or not 0 <= self.B <= MAX_GRID:
            raise ValueError(f"the candidates' kernels do not take {self}")
        if min(min(level.height, level.width) for level in self.levels) < 1:
            raise ValueError(f"the candidates' kernels do not take {self}")
        pairs = max(level.positions for level in self.levels) * max(self.K, 4)
        if max(pairs, self.chunks) > MAX_COUNT or self.k * len(self.levels) > MAX_CANDIDATES:
            raise ValueError(f"too large for the candidates' kernels: {self}")

    @property
    def chunks(self) -> int:
        """Blocks that go through a picture's pairs."""
        return sum(up(level.positions * self.K, _CHUNK) for level in self.levels)

    @property
    def candidates(self) -> int:
        """M, of a picture."""
        return len(self.levels) * self.k

    def parts(self) -> list[Part]:
        """The workspace's parts, type and number of values: histograms, lists' lengths, cuts, ties, keys."""
        lists = self.B * len(self.levels)
        return [
            (np.int32, lists * _HISTOGRAMS * _BINS),
            (np.int32, lists),
            (np.int32, lists * _HISTOGRAMS * 2),
            (np.int32, self.B * self.chunks),
            (np.uint64, lists * self.k),
        ]


def candidates_workspace_bytes(sizes: CandidateSizes) -> int:
    """Bytes of device memory that `candidates_launches` needs."""
    return workspace_bytes(sizes.parts())


def candidates_launches(
    dtype: npt.DTypeLike,
    sizes: CandidateSizes,
    threshold: float,
    classes_ptrs: Sequence[Memory],
    centerness_ptrs: Sequence[Memory],
    deltas_ptrs: Sequence[Memory],
    image_sizes_ptr: Memory,
    boxes_ptr: Memory,
    scores_ptr: Memory,
    labels_ptr: Memory,
    workspace_ptr: Memory,
) -> list[Launch]:
    """Of each level the k best pairs of a position and a class: all levels' behind one another, M = L * k.

    Of each level classes f32 (B, H * W, K), centerness (B, 1, H, W), logits, and deltas (B, 4, H, W), the last two of
    dtype, float32 or float16; image_sizes int64 (B, 2) as h, w -> boxes f32 (B, M, 4) xyxy, scores f32 (B, M) falling
    in each level, labels int32 (B, M): `model.selection.level_candidates`, but that empty places hold zeros and the
    score -1. Nothing to launch without a picture. Raises ValueError and TypeError as `im2col_launches`.
    """
    dtype = checked_dtype("the candidates' kernels take", dtype)
    if sizes.B == 0:
        return []
    B, K, M, suffix = sizes.B, sizes.K, sizes.candidates, DTYPES[dtype]
    classes = _of_levels("classes", classes_ptrs, np.dtype(np.float32), sizes, K)
    centerness = _of_levels("centerness", centerness_ptrs, dtype, sizes, 1)
    deltas = _of_levels("deltas", deltas_ptrs, dtype, sizes, 4)
    image_sizes = checked_pointer("image_sizes", image_sizes_ptr, np.int64, B * 2, 8)
    outputs = [
        checked_pointer("boxes", boxes_ptr, np.float32, B * M * 4, BOX_BYTES, written=True),
        checked_pointer("scores", scores_ptr, np.float32, B * M, 4, written=True),
        checked_pointer("labels", labels_ptr, np.int32, B * M, 4, written=True),
    ]
    histograms, found, cuts, ties, keys = workspace_pointers(sizes.parts(), workspace_ptr)
    bins, lists = (ctypes.c_int32(count) for _, count in sizes.parts()[:2])
    levels, k = _levels(sizes), ctypes.c_int32(sizes.k)
    scored = (levels, ctypes.c_float(threshold), k)

    def of_chunks(step: str, shared_words: int, *arguments: object) -> Launch:
        grid, name = (sizes.chunks, B, 1), f"glip_candidates_{step}_{suffix}"
        return Launch(name, grid, (_THREADS, 1, 1), 4 * shared_words, arguments)

    return [
        Launch(
            "glip_candidates_clear",
            (min(up(bins.value, _THREADS), MAX_GRID), 1, 1),
            (_THREADS, 1, 1),
            0,
            (histograms, found, bins, lists),
        ),
        *(
            of_chunks(
                "histogram",
                _BINS + _CUT_WORDS,
                *scored,
                ctypes.c_int32(number),
                *classes,
                *centerness,
                histograms,
                cuts,
            )
            for number in range(_HISTOGRAMS)
        ),
        of_chunks("ties", 1 + _CUT_WORDS, *scored, *classes, *centerness, histograms, cuts, ties),
        of_chunks("collect", 1 + _CHUNK // 32, *scored, *classes, *centerness, cuts, ties, keys, found),
        Launch(
            f"glip_candidates_finish_{suffix}",
            (up(sizes.k, _FINISHED_THREADS), len(sizes.levels), B),
            (_FINISHED_THREADS, 1, 1),
            8 * _KEY_TILE,
            (levels, k, *deltas, image_sizes, keys, found, *outputs),
        ),
    ]


def _levels(sizes: CandidateSizes) -> CandidateLevels:
    made = CandidateLevels(len(sizes.levels), sizes.K, sizes.chunks)
    for place, level in enumerate(sizes.levels):
        middle, reach = (level.stride - 1) / 2, (level.anchor_size - 1) / 2
        made.positions[place], made.width[place] = level.positions, level.width
        made.channels_last[place] = level.channels_last
        made.stride[place], made.scale[place] = level.stride, level.scale
        made.low[place], made.high[place] = middle - reach, middle + reach  # as model/boxes.py's anchors
    return made


def _of_levels(
    name: str, pointers: Sequence[Memory], dtype: np.dtype, sizes: CandidateSizes, channels: int
) -> list[ctypes.c_void_p]:
    """One address a level, and none for the levels that are not there."""
    if len(pointers) != len(sizes.levels):
        raise ValueError(f"{name} of {len(pointers)} levels were given, and {len(sizes.levels)} are taken")
    made = [
        checked_pointer(f"{name} {place}", memory, dtype, sizes.B * level.positions * channels, dtype.itemsize)
        for place, (memory, level) in enumerate(zip(pointers, sizes.levels, strict=True))
    ]
    return made + [ctypes.c_void_p(0)] * (MAX_LEVELS - len(made))
