"""How the plugins' CUDA kernels are launched: grid, block and arguments, as data. Needs no CUDA.

The arithmetic is that of plugins/launchers/launch_plan.h, which the C++ plugins use.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

THREADS = 256  # a block, of every kernel
MAX_GRID = 65535  # of y and z; the kernels go on in strides from there
MAX_COUNT = 2**31 - 1
MAX_CANDIDATES = 2**30
ENOUGH_THREADS = 1 << 16
SLABS = (32, 16, 8)  # channels that a thread goes through, the best first
BOX_BYTES = 16  # the kernels read a box at once

_DTYPES = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16"}


@dataclass(frozen=True)
class Launch:
    """One kernel launch. `arguments` are ctypes values in the order and of the sizes of the kernel's parameters."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[Any, ...]

    def argument_pointers(self) -> ctypes.Array[ctypes.c_void_p]:
        """What cuLaunchKernel calls kernelParams: the addresses of the arguments, valid as long as this launch."""
        return (ctypes.c_void_p * len(self.arguments))(*(ctypes.addressof(argument) for argument in self.arguments))


def im2col_launches(
    dtype: npt.DTypeLike,
    B: int,
    C: int,
    H: int,
    W: int,
    Ho: int,
    Wo: int,
    stride: int,
    x_ptr: int,
    offset_ptr: int,
    mask_ptr: int,
    out_ptr: int,
) -> list[Launch]:
    """x (B, C, H, W), offset (B, 18, Ho, Wo), mask (B, 9, Ho, Wo) -> columns (B, C * 9, Ho * Wo), row c * 9 + tap.

    dtype: float32 or float16, of all four; stride 1 or 2. Nothing to launch where a size is 0. Raises ValueError for
    another dtype or stride, sizes the kernel cannot count, or an address that is not aligned to a value.
    """
    if np.dtype(dtype) not in _DTYPES:
        raise ValueError(f"the deformable im2col takes float32 or float16, not {np.dtype(dtype)}")
    if stride not in (1, 2):
        raise ValueError(f"the deformable im2col has stride 1 or 2, not {stride}")
    positions = Ho * Wo
    if max(H * W, positions) > MAX_COUNT or 9 * _up(C, SLABS[-1]) > MAX_GRID or B > MAX_COUNT:
        raise ValueError(f"too large for the deformable im2col: {B} x {C} x {H} x {W}, output {Ho} x {Wo}")
    if min(B, C, H, W, positions) < 1:
        return []
    bytes_each = np.dtype(dtype).itemsize
    written_or_strided = (offset_ptr, mask_ptr, out_ptr)
    _check_aligned(bytes_each, x_ptr, *written_or_strided)
    pair = positions % 2 == 0 and all(pointer % (2 * bytes_each) == 0 for pointer in written_or_strided)
    threads = positions // 2 if pair else positions
    # The largest slab, for its fewer position sums, that still gives the device enough threads.
    slab = next((s for s in SLABS if threads * 9 * B * _up(C, s) >= ENOUGH_THREADS), SLABS[-1])
    return [
        Launch(
            kernel=f"glip_deform_im2col_{_DTYPES[np.dtype(dtype)]}{'_pair' if pair else ''}",
            grid=(min(_up(threads, THREADS), MAX_GRID), 9 * _up(C, slab), min(B, MAX_GRID)),
            block=(THREADS, 1, 1),
            shared_bytes=0,
            arguments=(
                *(ctypes.c_void_p(pointer) for pointer in (x_ptr, *written_or_strided)),
                *(ctypes.c_int32(size) for size in (B, C, H, W, Ho, Wo, stride, slab)),
            ),
        )
    ]


def nms_launches(
    B: int,
    M: int,
    D: int,
    iou_threshold: float,
    boxes_ptr: int,
    scores_ptr: int,
    labels_ptr: int,
    out_boxes_ptr: int,
    out_scores_ptr: int,
    out_labels_ptr: int,
    out_count_ptr: int,
    workspace_ptr: int,
) -> list[Launch]:
    """The best D of M candidates an image after class-wise NMS, in two kernels.

    boxes (B, M, 4) f32 xyxy, scores (B, M) f32, negative where there is no candidate, labels (B, M) int32 ->
    boxes (B, D, 4) f32, scores (B, D) f32 falling, labels (B, D) int32, -1 in empty places, count (B,) int32. The
    workspace has `nms_workspace_bytes`. Raises ValueError for a negative threshold, sizes the kernels cannot count,
    or an address that is not aligned: boxes to 16 bytes, the others to 4.
    """
    if not iou_threshold >= 0:
        raise ValueError(f"the IoU threshold cannot be {iou_threshold}: it is 0 or more")
    if D < 1 or not 0 <= M <= MAX_CANDIDATES or max(B, D) > MAX_COUNT:
        raise ValueError(f"the box selection cannot keep {D} of {M} candidates in {B} images")
    if B < 1:
        return []
    _check_aligned(BOX_BYTES, boxes_ptr, out_boxes_ptr)
    _check_aligned(4, scores_ptr, labels_ptr, out_scores_ptr, out_labels_ptr, out_count_ptr, workspace_ptr)
    rank = Launch(
        kernel="glip_nms_rank",
        grid=(min(_up(M, THREADS), MAX_GRID), min(B, MAX_GRID), 1),
        block=(THREADS, 1, 1),
        shared_bytes=0,
        arguments=(
            ctypes.c_void_p(scores_ptr),
            ctypes.c_void_p(workspace_ptr),
            ctypes.c_int32(B),
            ctypes.c_int32(M),
        ),
    )
    inputs = (boxes_ptr, scores_ptr, labels_ptr, workspace_ptr)
    outputs = (out_boxes_ptr, out_scores_ptr, out_labels_ptr, out_count_ptr)
    select = Launch(
        kernel="glip_nms_select",
        grid=(min(B, MAX_GRID), 1, 1),
        block=(THREADS, 1, 1),
        shared_bytes=0,
        arguments=(
            *(ctypes.c_void_p(pointer) for pointer in (*inputs, *outputs)),
            *(ctypes.c_int32(size) for size in (B, M, D)),
            ctypes.c_float(iou_threshold),
        ),
    )
    return [rank, select] if M > 0 else [select]


def nms_workspace_bytes(B: int, M: int, D: int) -> int:
    """Bytes of device memory that `nms_launches` needs: the order of the candidates, whatever D is."""
    return 4 * B * M


def _check_aligned(unit: int, *pointers: int) -> None:
    for pointer in pointers:
        if pointer % unit:
            raise ValueError(f"address {pointer:#x} is not aligned to {unit} bytes")


def _up(value: int, unit: int) -> int:
    return -(-value // unit)
