"""How the plugins' CUDA kernels are launched: grid, block and arguments, as data. Needs no CUDA.

The arithmetic is that of plugins/launchers/launch_plan.h, which the C++ plugins use.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from glip_export.addresses import holding, pointer_to

THREADS = 256  # a block, of every kernel
MAX_GRID = 65535  # of y and z; the kernels go on in strides from there
MAX_COUNT = 2**31 - 1
MAX_CANDIDATES = 2**30
ENOUGH_THREADS = 1 << 16
SLABS = (32, 16, 8)  # channels that a thread goes through, the best first
BOX_BYTES = 16  # the kernels read a box at once
PART_BYTES = 16  # that each part of a workspace begins at a multiple of


class DeviceMemory(Protocol):
    """An array on the device, such as the runtime's DeviceArray."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype


# What a kernel reads or writes: an address, which the giver keeps until the stream has passed the launch, as TensorRT
# does; or an array, which the launch holds and which is checked.
Memory = int | DeviceMemory | np.ndarray

Part = tuple[npt.DTypeLike, int]  # of a workspace: a type, and how many values

DTYPES = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16"}


@dataclass(frozen=True)
class Launch:
    """One kernel launch. `arguments` are ctypes values in the order and of the sizes of the kernel's parameters."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[Any, ...]

    def argument_pointers(self) -> ctypes.Array[ctypes.c_void_p]:
        """What cuLaunchKernel calls kernelParams: the addresses of the arguments, which it holds."""
        addresses = (ctypes.addressof(argument) for argument in self.arguments)
        return holding((ctypes.c_void_p * len(self.arguments))(*addresses), self.arguments)

    @property
    def holds_memory(self) -> bool:
        """Whether it keeps arrays that its kernel reads or writes."""
        return any(getattr(argument, "held", ()) for argument in self.arguments)


def im2col_launches(
    dtype: npt.DTypeLike,
    B: int,
    C: int,
    H: int,
    W: int,
    Ho: int,
    Wo: int,
    stride: int,
    x_ptr: Memory,
    offset_ptr: Memory,
    mask_ptr: Memory,
    out_ptr: Memory,
) -> list[Launch]:
    """x (B, C, H, W), offset (B, 18, Ho, Wo), mask (B, 9, Ho, Wo) -> columns (B, C * 9, Ho * Wo), row c * 9 + tap.

    dtype: float32 or float16, of all four; stride 1 or 2. Nothing to launch where a size is 0. Raises ValueError for
    another dtype or stride, sizes the kernel cannot count, an address that is not aligned to a value, or an array of
    another size; TypeError for one of another dtype.
    """
    dtype = checked_dtype("the deformable im2col takes", dtype)
    if stride not in (1, 2):
        raise ValueError(f"the deformable im2col has stride 1 or 2, not {stride}")
    positions = Ho * Wo
    if max(H * W, positions) > MAX_COUNT or 9 * up(C, SLABS[-1]) > MAX_GRID or B > MAX_COUNT:
        raise ValueError(f"too large for the deformable im2col: {B} x {C} x {H} x {W}, output {Ho} x {Wo}")
    if min(B, C, H, W, positions) < 1:
        return []
    bytes_each = dtype.itemsize
    pointers = [
        checked_pointer("x", x_ptr, dtype, B * C * H * W, bytes_each),
        checked_pointer("offset", offset_ptr, dtype, B * 18 * positions, bytes_each),
        checked_pointer("mask", mask_ptr, dtype, B * 9 * positions, bytes_each),
        checked_pointer("out", out_ptr, dtype, B * C * 9 * positions, bytes_each, written=True),
    ]
    pair = positions % 2 == 0 and all((pointer.value or 0) % (2 * bytes_each) == 0 for pointer in pointers[1:])
    threads = positions // 2 if pair else positions
    # The largest slab, for its fewer position sums, that still gives the device enough threads.
    slab = next((s for s in SLABS if threads * 9 * B * up(C, s) >= ENOUGH_THREADS), SLABS[-1])
    return [
        Launch(
            kernel=f"glip_deform_im2col_{DTYPES[dtype]}{'_pair' if pair else ''}",
            grid=(min(up(threads, THREADS), MAX_GRID), 9 * up(C, slab), min(B, MAX_GRID)),
            block=(THREADS, 1, 1),
            shared_bytes=0,
            arguments=(
                *pointers,
                *(ctypes.c_int32(size) for size in (B, C, H, W, Ho, Wo, stride, slab)),
            ),
        )
    ]


def nms_launches(
    B: int,
    M: int,
    D: int,
    iou_threshold: float,
    boxes_ptr: Memory,
    scores_ptr: Memory,
    labels_ptr: Memory,
    out_boxes_ptr: Memory,
    out_scores_ptr: Memory,
    out_labels_ptr: Memory,
    out_count_ptr: Memory,
    workspace_ptr: Memory,
) -> list[Launch]:
    """The best D of M candidates an image after class-wise NMS, in two kernels.

    boxes (B, M, 4) f32 xyxy, scores (B, M) f32, negative where there is no candidate, labels (B, M) int32 ->
    boxes (B, D, 4) f32, scores (B, D) f32 falling, labels (B, D) int32, -1 in empty places, count (B,) int32. The
    workspace has `nms_workspace_bytes`. Raises ValueError for a negative threshold, sizes the kernels cannot count,
    an address that is not aligned (boxes to 16 bytes, the others to 4) or an array of another size; TypeError for one
    of another dtype.
    """
    if not iou_threshold >= 0:
        raise ValueError(f"the IoU threshold cannot be {iou_threshold}: it is 0 or more")
    if D < 1 or not 0 <= M <= MAX_CANDIDATES or max(B, D) > MAX_COUNT:
        raise ValueError(f"the box selection cannot keep {D} of {M} candidates in {B} images")
    if B < 1:
        return []
    order = checked_pointer("workspace", workspace_ptr, np.uint8, nms_workspace_bytes(B, M, D), 4, written=True)
    inputs = [
        checked_pointer("boxes", boxes_ptr, np.float32, B * M * 4, BOX_BYTES),
        checked_pointer("scores", scores_ptr, np.float32, B * M, 4),
        checked_pointer("labels", labels_ptr, np.int32, B * M, 4),
    ]
    outputs = [
        checked_pointer("out_boxes", out_boxes_ptr, np.float32, B * D * 4, BOX_BYTES, written=True),
        checked_pointer("out_scores", out_scores_ptr, np.float32, B * D, 4, written=True),
        checked_pointer("out_labels", out_labels_ptr, np.int32, B * D, 4, written=True),
        checked_pointer("out_count", out_count_ptr, np.int32, B, 4, written=True),
    ]
    rank = Launch(
        kernel="glip_nms_rank",
        grid=(min(up(M, THREADS), MAX_GRID), min(B, MAX_GRID), 1),
        block=(THREADS, 1, 1),
        shared_bytes=0,
        arguments=(
            inputs[1],
            order,
            ctypes.c_int32(B),
            ctypes.c_int32(M),
        ),
    )
    select = Launch(
        kernel="glip_nms_select",
        grid=(min(B, MAX_GRID), 1, 1),
        block=(THREADS, 1, 1),
        shared_bytes=0,
        arguments=(
            *inputs,
            order,
            *outputs,
            *(ctypes.c_int32(size) for size in (B, M, D)),
            ctypes.c_float(iou_threshold),
        ),
    )
    return [rank, select] if M > 0 else [select]


def nms_workspace_bytes(B: int, M: int, D: int) -> int:
    """Bytes of device memory that `nms_launches` needs: the order of the candidates, whatever D is."""
    return 4 * B * M


def checked_pointer(
    name: str, memory: Memory, dtype: npt.DTypeLike, count: int, aligned: int, written: bool = False
) -> ctypes.c_void_p:
    """The address of `memory`, with which an array is held.

    Raises ValueError for an array of another size than `count` values or an address that is not aligned to so many
    bytes; TypeError for an array of another dtype.
    """
    if isinstance(memory, int | np.integer):
        pointer = ctypes.c_void_p(int(memory))
    else:
        if prod(memory.shape) != count:
            raise ValueError(f"{name} has shape {tuple(memory.shape)}, and {count} values are taken")
        if memory.dtype != dtype:
            raise TypeError(f"{name} is {memory.dtype} and should be {np.dtype(dtype)}")
        if isinstance(memory, np.ndarray):
            pointer = pointer_to(memory, dtype, written)
        else:
            pointer = holding(ctypes.c_void_p(memory.pointer), memory)
    if (pointer.value or 0) % aligned:
        raise ValueError(f"address {pointer.value or 0:#x} is not aligned to {aligned} bytes")
    return pointer


def checked_dtype(takes: str, dtype: npt.DTypeLike) -> np.dtype:
    """The dtype. Raises ValueError for one that no kernel has; takes: who takes which, the message's beginning."""
    dtype = np.dtype(dtype)
    if dtype not in DTYPES:
        raise ValueError(f"{takes} float32 or float16, not {dtype}")
    return dtype


def workspace_bytes(parts: Iterable[Part]) -> int:
    """Bytes of a workspace that holds these parts."""
    return sum(_aligned_bytes(*part) for part in parts)


def workspace_begins(parts: Iterable[Part]) -> list[int]:
    """The byte that each part begins at, behind one another."""
    ends = accumulate(_aligned_bytes(*part) for part in parts)
    return [0, *ends][:-1]


def workspace_pointers(parts: Sequence[Part], memory: Memory) -> list[ctypes.c_void_p]:
    """The parts' addresses in the workspace. Raises errors as `checked_pointer`."""
    return [
        checked_pointer("workspace", _part_of(memory, begin, dtype, count), dtype, count, PART_BYTES, written=True)
        for begin, (dtype, count) in zip(workspace_begins(parts), parts, strict=True)
    ]


def _aligned_bytes(dtype: npt.DTypeLike, count: int) -> int:
    return up(np.dtype(dtype).itemsize * count, PART_BYTES) * PART_BYTES


def _part_of(memory: Memory, begin: int, dtype: npt.DTypeLike, count: int) -> Memory:
    """`count` values of a workspace from a byte on; of an array a view."""
    if isinstance(memory, int | np.integer):
        return int(memory) + begin
    if not isinstance(memory, np.ndarray):
        raise TypeError(f"a part of {type(memory).__name__} is not taken: give its address")
    return memory.reshape(-1).view(np.uint8)[begin : begin + np.dtype(dtype).itemsize * count].view(dtype)


def up(value: int, unit: int) -> int:
    """How many units hold the value."""
    return -(-value // unit)
