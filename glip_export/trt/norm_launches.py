"""How a residual sum and its LayerNorm are launched (plugins/kernels/add_norm.cuh), as data. Needs no CUDA."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from glip_export.trt.launches import DTYPES, MAX_COUNT, Launch, Memory, checked_pointer, up

NORM_UNIT = 8  # of which the channels are a multiple
MAX_NORM_CHANNELS = 3072

_THREADS = 128
_VECTOR = 4  # channels that a lane reads at once
_FEW, _WARP = 6, 32  # vectors of a lane in the kernels that are not wide, and lanes that a row may have
_ALIGNED = 16


def add_norm_launches(
    x_dtype: npt.DTypeLike,
    dtype: npt.DTypeLike,
    M: int,
    C: int,
    epsilon: float,
    x_ptr: Memory,
    added_ptr: Memory | None,
    bias_ptr: Memory | None,
    norm_weight_ptr: Memory | None,
    norm_bias_ptr: Memory | None,
    sum_ptr: Memory | None,
    normed_ptr: Memory | None,
) -> list[Launch]:
    """sum (M, C) f32 = x + (added + bias), and normed (M, C) = the sum's LayerNorm, of M rows.

    dtype: of added and normed, float32 or float16; x is float32 or of that type, the rest float32: bias, norm_weight
    and norm_bias (C). added, bias and sum are given or all None, and so are the norm's weights and normed. C is a
    multiple of 8 up to 3072. Raises ValueError and TypeError as `im2col_launches`.
    """
    x_dtype, dtype, single = np.dtype(x_dtype), np.dtype(dtype), np.dtype(np.float32)
    if dtype not in DTYPES or x_dtype not in (single, dtype):
        raise ValueError(f"the norm's kernels take float32 or float16, not {x_dtype} and {dtype}")
    if C % NORM_UNIT or not 0 < C <= MAX_NORM_CHANNELS or not 0 <= M <= MAX_COUNT:
        raise ValueError(f"the norm's kernels do not take {M} rows of {C} channels")
    if M == 0:
        return []
    sums, norms = (added_ptr, bias_ptr, sum_ptr), (norm_weight_ptr, norm_bias_ptr, normed_ptr)
    if {len({memory is None for memory in parts}) for parts in (sums, norms)} != {1}:
        raise ValueError("what is added has a bias and a sum, and a norm has weight, bias and result")

    def pointer(name: str, memory: Memory | None, kind: np.dtype, count: int, written: bool = False) -> ctypes.c_void_p:
        if memory is None:
            return ctypes.c_void_p(0)
        return checked_pointer(name, memory, kind, count, _ALIGNED, written)

    vectors = C // _VECTOR
    wide = vectors > _FEW * _WARP
    lanes = _WARP if wide else 1 << (up(vectors, _FEW) - 1).bit_length()
    name = f"glip_add_norm_{DTYPES[dtype]}{'' if x_dtype == single else '_of_f16'}{'_wide' if wide else ''}"
    arguments = (
        ctypes.c_int64(M),
        ctypes.c_int32(C),
        ctypes.c_int32(lanes),
        ctypes.c_float(epsilon),
        pointer("x", x_ptr, x_dtype, M * C),
        pointer("added", added_ptr, dtype, M * C),
        pointer("bias", bias_ptr, single, C),
        pointer("norm_weight", norm_weight_ptr, single, C),
        pointer("norm_bias", norm_bias_ptr, single, C),
        pointer("sum", sum_ptr, single, M * C, written=True),
        pointer("normed", normed_ptr, dtype, M * C, written=True),
    )
    return [Launch(name, (up(M, _THREADS // lanes), 1, 1), (_THREADS, 1, 1), 0, arguments)]
