"""How attention within Swin's windows is launched (plugins/kernels/window_attention.cuh), as data. Needs no CUDA."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glip_export.trt.launches import MAX_COUNT, MAX_GRID, Launch, Memory, checked_dtype, checked_pointer, up

DEPTH_UNIT, MAX_DEPTH = 16, 64  # of which a head's depth is a multiple, up to
MAX_WINDOW_VALUES = 4608  # window^2 * depth: what 48 KB of shared memory have room for

_STRIP = 16  # queries of a warp, and keys of a square of relative biases
_FLOAT_WARPS, _FLOAT_ROWS = 4, 4
_ALIGNED = 16


class Windows(ctypes.Structure):
    """The kernels' argument of the same name."""

    _fields_ = (
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("shift", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


@dataclass(frozen=True)
class WindowSizes:
    """B maps of H x W, `heads` of `depth` channels each; windows of window x window that begin `shift` further on.

    Raises ValueError for sizes that the kernels do not take: the depth is 16, 32, 48 or 64, window^2 * depth is at most
    4608, and the shift is smaller than the window.
    """

    B: int
    H: int
    W: int
    heads: int
    depth: int
    window: int
    shift: int

    def __post_init__(self) -> None:
        if self.heads < 1 or self.depth % DEPTH_UNIT or not 0 < self.depth <= MAX_DEPTH:
            raise ValueError(f"the window attention does not take {self.heads} heads of {self.depth} channels")
        if self.window < 1 or self.window**2 * self.depth > MAX_WINDOW_VALUES or not 0 <= self.shift < self.window:
            raise ValueError(
                f"the window attention does not take windows of {self.window} shifted by {self.shift}, "
                f"{self.depth} channels a head"
            )
        if not 0 <= self.B <= MAX_GRID or min(self.H, self.W) < 0 or self.blocks * self.window**2 > MAX_COUNT:
            raise ValueError(f"too large for the window attention: {self.B} maps of {self.H} x {self.W}")

    @property
    def blocks(self) -> int:
        """Windows and heads of a map."""
        return up(self.H, self.window) * up(self.W, self.window) * self.heads

    @property
    def strips(self) -> int:
        """Of 16 positions of a window."""
        return up(self.window**2, _STRIP)

    @property
    def relative_shape(self) -> tuple[int, ...]:
        """Of the relative biases, arranged."""
        return self.heads, self.strips, self.strips, 32, 8


def window_attention_launches(
    dtype: npt.DTypeLike,
    sizes: WindowSizes,
    scale: float,
    qkv_ptr: Memory,
    bias_ptr: Memory,
    relative_ptr: Memory,
    out_ptr: Memory,
) -> list[Launch]:
    """qkv (B, H, W, 3 * C), its bias (3 * C) and `sizes.relative_shape` -> out (B, H, W, C), C = heads * depth.

    dtype: float32 or float16, of all four; scale: of the scores, above 0. Nothing to launch where a size is 0. Raises
    ValueError and TypeError as `im2col_launches`.
    """
    dtype = checked_dtype("the window attention takes", dtype)
    if not scale > 0:
        raise ValueError(f"the window attention does not take a scale of {scale}")
    positions, channels, strips = sizes.B * sizes.H * sizes.W, sizes.heads * sizes.depth, sizes.strips
    if positions == 0:
        return []
    windows = Windows(sizes.H, sizes.W, sizes.heads, sizes.window, sizes.shift, scale)
    pointers = (
        checked_pointer("qkv", qkv_ptr, dtype, positions * 3 * channels, _ALIGNED),
        checked_pointer("bias", bias_ptr, dtype, 3 * channels, _ALIGNED),
        checked_pointer("relative", relative_ptr, dtype, sizes.heads * strips**2 * 256, _ALIGNED),
        checked_pointer("out", out_ptr, dtype, positions * channels, _ALIGNED, written=True),
    )
    grid, rows = (sizes.blocks, sizes.B, 1), _STRIP * strips
    if dtype == np.float32:
        shared_bytes = rows * (8 + 4 * (sizes.depth + 4) + 4 * _FLOAT_WARPS * _FLOAT_ROWS)
        arguments = (windows, ctypes.c_int32(sizes.depth), *pointers)
        return [Launch("glip_window_attention_f32", grid, (32 * _FLOAT_WARPS, 1, 1), shared_bytes, arguments)]
    shared_bytes = rows * (8 + 3 * (2 * sizes.depth + 16))
    name = f"glip_window_attention_f16_{sizes.depth}"
    return [Launch(name, grid, (32 * strips, 1, 1), shared_bytes, (windows, *pointers))]
