"""How a DyConv block's four CUDA kernels are launched (plugins/kernels/dyconv_*.cuh), as data. Needs no CUDA."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from glip_export.addresses import holding
from glip_export.trt.launches import (
    DTYPES,
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
MAX_CHANNELS = 1024
CHANNELS = 32  # of which the channels are a multiple
PREDICTED = 27  # offsets and masks of a position
COEFFICIENTS = 8  # of a level and channel
STATISTICS = 3  # of a tile and channel

_TILE_ROWS = 128
_OFFSET_COLUMNS, _TERM_COLUMNS = 32, 256  # channels of the result that a block makes
_CONVOLVE_THREADS, _FINISH_THREADS, _COMBINE_THREADS = 512, 1024, 256
_COMBINE_EACH, _COMBINE_ROWS = 4, 8
_ALIGNED = 16  # bytes that the kernels read at once

Maps = Memory | list[Any]  # all levels behind one another, or the memory of each


class Levels(ctypes.Structure):
    """The kernels' argument of the same name."""

    _fields_ = (
        ("count", ctypes.c_int32),
        ("positions", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("tiles", ctypes.c_int32),
        ("apart", ctypes.c_int32),
        ("height", ctypes.c_int32 * MAX_LEVELS),
        ("width", ctypes.c_int32 * MAX_LEVELS),
    )


@dataclass(frozen=True)
class DyConvSizes:
    """B images, C channels in `groups` of GroupNorm, levels (H, W) from the largest to the smallest.

    Raises ValueError for sizes that the kernels do not take: C is a multiple of 32 and of groups and at most 1024,
    there are one to six levels, and each is half as high and wide as the one before, rounded up.
    """

    B: int
    C: int
    groups: int
    levels: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if self.C % CHANNELS or not 0 < self.C <= MAX_CHANNELS or self.groups < 1 or self.C % self.groups:
            raise ValueError(f"the DyConv kernels do not take {self.C} channels in {self.groups} groups")
        if not 1 <= len(self.levels) <= MAX_LEVELS or min(map(min, self.levels)) < 1:
            raise ValueError(f"the DyConv kernels do not take the levels {self.levels}")
        for (height, width), smaller in zip(self.levels, self.levels[1:], strict=False):
            if smaller != (up(height, 2), up(width, 2)):
                raise ValueError(f"a level of {smaller} does not follow on one of {(height, width)}")
        if self.rows * self.C > MAX_COUNT or not 0 <= self.B <= MAX_GRID:
            raise ValueError(f"too large for the DyConv kernels: {self.B} images of {self.levels}")

    @property
    def positions(self) -> int:
        """N: of all levels of an image."""
        return sum(height * width for height, width in self.levels)

    @property
    def rows(self) -> int:
        """R: of all results of an image."""
        return sum(height * width for height, width in self.results)

    @property
    def tiles(self) -> int:
        """Blocks of positions that an image's results are made in."""
        return _blocks(self.results, _TILE_ROWS)

    @property
    def results(self) -> list[tuple[int, int]]:
        """Each convolution's size: of a level its own, the larger neighbour's, the smaller neighbour's."""
        sizes = []
        for level, size in enumerate(self.levels):
            sizes += [size] * (1 + (level > 0)) + list(self.levels[level + 1 : level + 2])
        return sizes

    def parts(self, dtype: npt.DTypeLike) -> list[Part]:
        """The workspace's parts, type and number of values: predictions, results, statistics, coefficients."""
        single = np.dtype(np.float32)
        return [
            (single, self.B * self.positions * PREDICTED),
            (np.dtype(dtype), self.B * self.rows * self.C),
            (single, self.B * self.tiles * STATISTICS * self.C),
            (single, self.B * len(self.levels) * COEFFICIENTS * self.C),
        ]


def parameter_shapes(C: int) -> list[tuple[int, ...]]:
    """Of the parameters that `dyconv_launches` takes, in their order."""
    convolution = [(C, 9 * C), (C,), (C,), (C,)]  # with its norm
    lines = [(C // 4, C), (C // 4,), (4 * C, C // 4), (4 * C,)]
    return [(PREDICTED, 9 * C), (PREDICTED,), *convolution * 3, (C,), (1,), *lines]


def dyconv_workspace_bytes(dtype: npt.DTypeLike, sizes: DyConvSizes) -> int:
    """Bytes of device memory that `dyconv_launches` needs."""
    return workspace_bytes(sizes.parts(dtype))


def dyconv_launches(
    dtype: npt.DTypeLike,
    sizes: DyConvSizes,
    epsilon: Sequence[float],
    x_ptrs: Maps,
    parameter_ptrs: Sequence[Memory],
    out_ptrs: Maps,
    workspace_ptr: Memory,
) -> list[Launch]:
    """x -> out, every level from itself and its neighbours.

    x, out: either all levels behind one another, (B, N, C), or a list of each level's (B, H, W, C), wherever they are;
    no two share memory. dtype: float32 or float16, of x, out and the parameters: the offsets' weight (27, 9 * C) and
    bias; of DyConv 0, 1 and 2 weight (C, 9 * C), bias, GroupNorm's weight and bias; the attention's weight (C) and bias
    (1); DyReLU's layers (C / 4, C), (C / 4), (4 * C, C / 4), (4 * C). Convolutions' weights are tap by tap, column
    tap * C + c. epsilon: of the three norms. Nothing to launch without an image. Raises ValueError and TypeError as
    `im2col_launches`.
    """
    dtype = checked_dtype("the DyConv kernels take", dtype)
    B, C = sizes.B, sizes.C
    if B == 0:
        return []
    suffix = DTYPES[dtype]
    x, levels = _maps("x", x_ptrs, dtype, sizes)
    out, levels_out = _maps("out", out_ptrs, dtype, sizes, written=True)
    counts = list(map(prod, parameter_shapes(C)))
    if len(parameter_ptrs) != len(counts):
        raise ValueError(f"{len(parameter_ptrs)} parameters were given, and {len(counts)} are taken")
    parameters = [
        checked_pointer(f"parameter {place}", memory, dtype, count, _ALIGNED if count >= _ALIGNED else dtype.itemsize)
        for place, (memory, count) in enumerate(zip(parameter_ptrs, counts, strict=True))
    ]
    predicted, terms, statistics, coefficients = workspace_pointers(sizes.parts(dtype), workspace_ptr)

    convolutions = [parameters[2 + 4 * index : 6 + 4 * index] for index in range(3)]
    norms = [pointer for convolution in convolutions for pointer in convolution[1:]]
    slices = max(1, _FINISH_THREADS // C)
    of_group = _COMBINE_THREADS // (C // _COMBINE_EACH) * _COMBINE_ROWS
    channels = ctypes.c_int32(C)
    return [
        Launch(
            f"glip_dyconv_offsets_{suffix}",
            (_blocks(sizes.levels, _TILE_ROWS), B, 1),
            (_CONVOLVE_THREADS, 1, 1),
            _convolve_shared_bytes(_OFFSET_COLUMNS),
            (levels, channels, *x, *parameters[:2], predicted),
        ),
        Launch(
            f"glip_dyconv_convolve_{suffix}",
            (sizes.tiles, B, up(C, _TERM_COLUMNS)),
            (_CONVOLVE_THREADS, 1, 1),
            _convolve_shared_bytes(_TERM_COLUMNS),
            (
                levels,
                channels,
                *x,
                predicted,
                *(weight for weight, *_ in convolutions),
                terms,
                statistics,
            ),
        ),
        Launch(
            f"glip_dyconv_coefficients_{suffix}",
            (len(sizes.levels), B, 1),
            (_FINISH_THREADS, 1, 1),
            4 * ((STATISTICS * slices + 4) * C + 32),
            (
                levels,
                channels,
                ctypes.c_int32(sizes.groups),
                *map(ctypes.c_float, epsilon),
                statistics,
                *norms,
                *parameters[14:],
                coefficients,
            ),
        ),
        Launch(
            f"glip_dyconv_combine_{suffix}",
            (_blocks(sizes.levels, of_group), B, 1),
            (_COMBINE_THREADS, 1, 1),
            0,
            (levels_out, channels, terms, coefficients, *out),
        ),
    ]


def _maps(
    name: str, memory: Maps, dtype: np.dtype, sizes: DyConvSizes, written: bool = False
) -> tuple[list[ctypes.c_void_p], Levels]:
    """An address a level, none for the levels that are not there; and how far apart the images are."""
    if isinstance(memory, list):
        if len(memory) != len(sizes.levels):
            raise ValueError(f"{name} of {len(memory)} levels were given, and {len(sizes.levels)} are taken")
        counts = [sizes.B * height * width * sizes.C for height, width in sizes.levels]
        pointers = [
            checked_pointer(f"{name} {place}", each, dtype, count, _ALIGNED, written)
            for place, (each, count) in enumerate(zip(memory, counts, strict=True))
        ]
        apart = 0
    else:
        first = checked_pointer(name, memory, dtype, sizes.B * sizes.positions * sizes.C, _ALIGNED, written)
        before = accumulate((height * width for height, width in sizes.levels[:-1]), initial=0)
        bytes_each = sizes.C * dtype.itemsize
        addresses = [ctypes.c_void_p((first.value or 0) + positions * bytes_each) for positions in before]
        pointers = [holding(address, *getattr(first, "held", ())) for address in addresses]
        apart = sizes.positions
    heights, widths = zip(*sizes.levels, strict=True)
    absent = [0] * (MAX_LEVELS - len(sizes.levels))
    sides = [(ctypes.c_int32 * MAX_LEVELS)(*each, *absent) for each in (heights, widths)]
    levels = Levels(len(sizes.levels), sizes.positions, sizes.rows, sizes.tiles, apart, *sides)
    return pointers + [ctypes.c_void_p(0) for _ in absent], levels


def _convolve_shared_bytes(columns: int) -> int:
    """Two steps of samples and weights, 80 bytes a row."""
    return 2 * (_TILE_ROWS + columns) * 80


def _blocks(maps: Sequence[tuple[int, int]], positions: int) -> int:
    """How many blocks of so many positions the maps take, none of two maps."""
    return sum(up(height * width, positions) for height, width in maps)
