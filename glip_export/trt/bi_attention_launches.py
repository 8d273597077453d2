"""How a bi-attention's CUDA kernels are launched (plugins/kernels/bi_attention_*.cuh), as data. Needs no CUDA."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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

CHANNELS = 32  # of which the channels are a multiple
MAX_CHANNELS = 256
MAX_TOKENS = 256

_THREADS, _COMBINE_THREADS = 128, 256
_WIDTHS = (64, MAX_CHANNELS)  # channels that kernels have room for
_ROWS_BYTES, _TILE_BYTES = 128, 64  # a block's rows and a tile's, a channel: so many bytes of it
_PAIRED_TOKENS = 16  # of a head, that two heads share a tile of halves
_MULTIPROCESSORS, _PER_MULTIPROCESSOR = 132, 2  # of an H100; blocks that one takes
_LEAST_TILES = 8  # of a split, lest its sums weigh more than what it reads
_ALIGNED = 16  # bytes that the kernels read at once


@dataclass(frozen=True)
class BiAttentionSizes:
    """B images of N positions, C channels, `heads` heads of T tokens each.

    Raises ValueError for sizes that the kernels do not take: C is a multiple of 32 and at most 256, T at most 256.
    """

    B: int
    N: int
    C: int
    heads: int
    T: int

    def __post_init__(self) -> None:
        if self.C % CHANNELS or not 0 < self.C <= MAX_CHANNELS:
            raise ValueError(f"the bi-attention kernels do not take {self.C} channels")
        if not 1 <= self.T <= MAX_TOKENS or self.heads < 1 or self.N < 1:
            raise ValueError(
                f"the bi-attention kernels do not take {self.N} positions and {self.heads} heads of {self.T} tokens"
            )
        if not 0 <= self.B <= MAX_GRID or max(self.N * self.C, self.rows * max(self.B, self.C)) > MAX_COUNT:
            raise ValueError(f"too large for the bi-attention kernels: {self}")

    @property
    def rows(self) -> int:
        """Tokens of all heads."""
        return self.heads * self.T

    def splits(self, dtype: npt.DTypeLike) -> int:
        """Parts of the positions that different blocks read for the text."""
        tiles = up(self.N, _of(dtype, _TILE_BYTES))
        each = max(1, self.B * up(self.rows, _of(dtype, _ROWS_BYTES)))
        most = max(1, min(_PER_MULTIPROCESSOR * _MULTIPROCESSORS // each, tiles // _LEAST_TILES))
        return max(range(1, most + 1), key=lambda splits: (_busy(splits * each), splits))


def _busy(blocks: int) -> float:
    """The share of the multiprocessors that so many blocks keep at work."""
    return blocks / (_MULTIPROCESSORS * up(blocks, _MULTIPROCESSORS))


def text_reads_workspace_bytes(dtype: npt.DTypeLike, sizes: BiAttentionSizes) -> int:
    """Bytes of device memory that `text_reads_launches` needs."""
    return workspace_bytes(_parts(dtype, sizes))


def text_reads_launches(
    dtype: npt.DTypeLike,
    sizes: BiAttentionSizes,
    limits: tuple[float, float],
    v_ptr: Memory,
    keys_ptr: Memory,
    bias_ptr: Memory,
    out_ptr: Memory,
    workspace_ptr: Memory,
) -> list[Launch]:
    """softmax(clamp(keys . v + bias)) over the positions, times v; in two kernels.

    v (B, N, C), keys (B, heads * T, C), bias (B, heads * T) -> out (B, heads * T, C), of dtype, float32 or float16;
    limits: what the scores are clamped to. The workspace has `text_reads_workspace_bytes`. Raises ValueError for
    another dtype, an address that is not aligned to 16 bytes (bias to a value) or an array of another size; TypeError
    for one of another dtype.
    """
    dtype = checked_dtype("the bi-attention kernels take", dtype)
    B, N, C, rows = sizes.B, sizes.N, sizes.C, sizes.rows
    if B == 0:
        return []
    v = checked_pointer("v", v_ptr, dtype, B * N * C, _ALIGNED)
    keys = checked_pointer("keys", keys_ptr, dtype, B * rows * C, _ALIGNED)
    bias = checked_pointer("bias", bias_ptr, dtype, B * rows, dtype.itemsize)
    out = checked_pointer("out", out_ptr, dtype, B * rows * C, _ALIGNED, written=True)
    partial, states = workspace_pointers(_parts(dtype, sizes), workspace_ptr)
    splits = sizes.splits(dtype)
    return [
        Launch(
            f"glip_text_reads_{DTYPES[dtype]}_{_width(C)}",
            (up(rows, _of(dtype, _ROWS_BYTES)), splits, B),
            (_THREADS, 1, 1),
            _shared_bytes(C),
            (*map(ctypes.c_int32, (rows, N, C)), *map(ctypes.c_float, limits), v, keys, bias, partial, states),
        ),
        Launch(
            f"glip_text_combine_{DTYPES[dtype]}",
            (rows, B, 1),
            (_COMBINE_THREADS, 1, 1),
            0,
            (*map(ctypes.c_int32, (rows, C, splits)), partial, states, out),
        ),
    ]


def image_reads_launches(
    dtype: npt.DTypeLike,
    sizes: BiAttentionSizes,
    limits: tuple[float, float],
    v_ptr: Memory,
    keys_ptr: Memory,
    bias_ptr: Memory,
    values_ptr: Memory,
    mask_ptr: Memory,
    gain_ptr: Memory,
    offset_ptr: Memory,
    out_ptr: Memory,
) -> list[Launch]:
    """v + gain * (softmax(clamp(keys . v + bias) + mask) over a head's tokens, times values + offset); in one kernel.

    v (B, N, C), keys and values (B, heads * T, C), bias (B, heads * T) of dtype, mask (B, T), gain and offset (C,)
    float32 -> out (B, N, C) of dtype. Dtype, limits and errors: see `text_reads_launches`.
    """
    dtype = checked_dtype("the bi-attention kernels take", dtype)
    B, N, C, rows = sizes.B, sizes.N, sizes.C, sizes.rows
    if B == 0:
        return []
    memory = (
        checked_pointer("v", v_ptr, dtype, B * N * C, _ALIGNED),
        checked_pointer("keys", keys_ptr, dtype, B * rows * C, _ALIGNED),
        checked_pointer("bias", bias_ptr, dtype, B * rows, dtype.itemsize),
        checked_pointer("values", values_ptr, dtype, B * rows * C, _ALIGNED),
        checked_pointer("mask", mask_ptr, np.float32, B * sizes.T, 4),
        checked_pointer("gain", gain_ptr, np.float32, C, 4),
        checked_pointer("offset", offset_ptr, np.float32, C, 4),
        checked_pointer("out", out_ptr, dtype, B * N * C, _ALIGNED, written=True),
    )
    paired = dtype == np.float16 and sizes.T <= _PAIRED_TOKENS
    return [
        Launch(
            f"glip_image_reads_{DTYPES[dtype]}_{_width(C)}{'_pair' if paired else ''}",
            (up(N, _of(dtype, _ROWS_BYTES)), B, 1),
            (_THREADS, 1, 1),
            _shared_bytes(C),
            (*map(ctypes.c_int32, (sizes.heads, sizes.T, N, C)), *map(ctypes.c_float, limits), *memory),
        )
    ]


def _parts(dtype: npt.DTypeLike, sizes: BiAttentionSizes) -> list[Part]:
    """The workspace's: of every part of the positions and row the sums, then two numbers of its softmax."""
    rows = sizes.B * sizes.splits(dtype) * sizes.rows
    return [(np.float32, rows * sizes.C), (np.float32, rows * 2)]


def _of(dtype: npt.DTypeLike, size: int) -> int:
    """How many values so many bytes hold."""
    return size // np.dtype(dtype).itemsize


def _width(C: int) -> int:
    return next(width for width in _WIDTHS if width >= C)


def _shared_bytes(C: int) -> int:
    """The rows and two tiles, the same of both types."""
    return _width(C) * (_ROWS_BYTES + 2 * _TILE_BYTES)
