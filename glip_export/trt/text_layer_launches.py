"""How the CUDA kernels of a layer of BERT are launched (plugins/kernels/text_layer.cuh), as data. Needs no CUDA."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from glip_export.trt.launches import DTYPES, MAX_COUNT, MAX_GRID, Launch, Memory, checked_dtype, checked_pointer, up

DEPTHS = 8  # of which a head's channels are a multiple
MAX_DEPTH = 128
MAX_TOKENS = 512  # of a text
HIDDEN = 8  # of which the MLP's channels are a multiple
MAX_NORMED = 4096  # channels

_TEXT_THREADS, _ROW_THREADS = 128, 256
_QUERIES, _KEYS = 16, 64
_ALIGNED = 16  # bytes that the kernels read at once
_TAKE = "the text's kernels take"


def text_attention_launches(
    dtype: npt.DTypeLike,
    B: int,
    T: int,
    heads: int,
    depth: int,
    masks: int,
    scale: float,
    limits: tuple[float, float],
    qkv_ptr: Memory,
    mask_ptr: Memory,
    out_ptr: Memory,
) -> list[Launch]:
    """qkv (B, T, 3 * C), mask float32 (masks, T) -> out (B, T, C): softmax(clamp(q k^T * scale) + mask) v of each head.

    dtype: float32 or float16, of qkv and out; C = heads * depth; masks: B, or 1 for one mask of all; limits: of the
    scores before the mask. Nothing to launch without a text. Raises ValueError and TypeError as `im2col_launches`.
    """
    dtype = checked_dtype(_TAKE, dtype)
    if depth % DEPTHS or not 0 < depth <= MAX_DEPTH or not 0 < T <= MAX_TOKENS:
        raise ValueError(f"the text's attention takes no {T} tokens with {depth} channels a head")
    if masks not in (1, B) or not 0 < heads <= MAX_GRID or not 0 <= B <= MAX_GRID:
        raise ValueError(f"the text's attention takes no {B} texts, {masks} masks and {heads} heads")
    if B == 0:
        return []
    channels = heads * depth
    pointers = (
        checked_pointer("qkv", qkv_ptr, dtype, B * T * 3 * channels, _ALIGNED),
        checked_pointer("mask", mask_ptr, np.float32, masks * T, 4),
        checked_pointer("out", out_ptr, dtype, B * T * channels, _ALIGNED, written=True),
    )
    rows = (_QUERIES + _KEYS) * (depth + 4) + _QUERIES * (up(T, _KEYS) * _KEYS + 1)
    sizes = map(ctypes.c_int32, (T, heads, depth, masks))
    numbers = map(ctypes.c_float, (scale, *limits))
    grid = (up(T, _QUERIES), heads, B)
    return [
        Launch(
            f"glip_text_attention_{DTYPES[dtype]}", grid, (_TEXT_THREADS, 1, 1), 4 * rows, (*pointers, *sizes, *numbers)
        )
    ]


def text_norm_launches(
    dtype: npt.DTypeLike,
    rows: int,
    channels: int,
    epsilon: float,
    added_limits: tuple[float, float],
    limits: tuple[float, float],
    x_ptr: Memory,
    added_ptr: Memory,
    weight_ptr: Memory,
    bias_ptr: Memory,
    out_ptr: Memory,
    narrow_ptr: Memory | None = None,
) -> list[Launch]:
    """x float32 (rows, C), added (rows, C) -> out float32: clamp(LayerNorm(x + clamp(added))), and in dtype `narrow`.

    dtype: float32 or float16, of added and narrow; weight, bias: float32 (C,). Nothing to launch without rows. Raises
    ValueError and TypeError as `im2col_launches`.
    """
    dtype = checked_dtype(_TAKE, dtype)
    if not 0 < channels <= MAX_NORMED or not 0 <= rows <= MAX_COUNT:
        raise ValueError(f"the text's norm takes no {rows} rows of {channels} channels")
    if rows == 0:
        return []
    single, count = np.float32, rows * channels
    pointers = (
        checked_pointer("x", x_ptr, single, count, 4),
        checked_pointer("added", added_ptr, dtype, count, dtype.itemsize),
        checked_pointer("weight", weight_ptr, single, channels, 4),
        checked_pointer("bias", bias_ptr, single, channels, 4),
        checked_pointer("out", out_ptr, single, count, 4, written=True),
        ctypes.c_void_p(0)
        if narrow_ptr is None
        else checked_pointer("narrow", narrow_ptr, dtype, count, dtype.itemsize, written=True),
    )
    numbers = map(ctypes.c_float, (epsilon, *added_limits, *limits))
    return [
        Launch(
            f"glip_text_norm_{DTYPES[dtype]}",
            (rows, 1, 1),
            (_ROW_THREADS, 1, 1),
            4 * channels,
            (*pointers, ctypes.c_int32(channels), *numbers),
        )
    ]


def text_gelu_launches(
    dtype: npt.DTypeLike, count: int, limits: tuple[float, float], x_ptr: Memory, out_ptr: Memory
) -> list[Launch]:
    """x -> out, `count` values of float32 or float16: clamp(GELU(clamp(x))).

    Nothing to launch without values. Raises ValueError and TypeError as `im2col_launches`.
    """
    dtype = checked_dtype(_TAKE, dtype)
    if count % HIDDEN or not 0 <= count <= MAX_COUNT:
        raise ValueError(f"the text's GELU takes no {count} values")
    if count == 0:
        return []
    x = checked_pointer("x", x_ptr, dtype, count, _ALIGNED)
    out = checked_pointer("out", out_ptr, dtype, count, _ALIGNED, written=True)
    grid = (up(count, _ROW_THREADS * HIDDEN), 1, 1)
    arguments = (x, out, ctypes.c_int64(count), *map(ctypes.c_float, limits))
    return [Launch(f"glip_text_gelu_{DTYPES[dtype]}", grid, (_ROW_THREADS, 1, 1), 0, arguments)]
