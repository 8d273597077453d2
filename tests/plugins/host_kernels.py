"""The CUDA kernels compiled as plain C++ (plugins/host_shim), run by the launch descriptions of the package."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glip_export.addresses import Array
from glip_export.trt.kernels import (
    BiAttentionSizes,
    CandidateSizes,
    DyConvSizes,
    Launch,
    WindowSizes,
    add_norm_launches,
    candidates_launches,
    candidates_workspace_bytes,
    dyconv_launches,
    dyconv_workspace_bytes,
    im2col_launches,
    image_reads_launches,
    nms_launches,
    nms_workspace_bytes,
    text_reads_launches,
    text_reads_workspace_bytes,
    window_attention_launches,
)
from glip_export.trt.resize_launches import ResizeSizes, resize_filter, resize_launches

PLUGINS = Path(__file__).parents[2] / "plugins"
BARRIER_MISSED = 1
_MAX_ARGUMENTS = 32
_SIZE = ctypes.c_uint * 3
_PARAMETERS = {
    "glip_host_argument_bytes": (ctypes.c_char_p, ctypes.c_size_t * _MAX_ARGUMENTS, ctypes.c_int),
    "glip_host_launch": (ctypes.c_char_p, _SIZE, _SIZE, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint),
    "glip_host_half_to_float": (Array(np.uint16), Array(np.float32, written=True), ctypes.c_size_t),
    "glip_host_float_to_half": (Array(np.float32), Array(np.uint16, written=True), ctypes.c_size_t),
    "glip_host_plan_im2col": (*(ctypes.c_int,) * 8, ctypes.c_longlong * 5),
    "glip_host_plan_dyconv": (*(ctypes.c_int,) * 4, ctypes.c_int32 * 12, ctypes.c_int, ctypes.c_longlong * 48),
    "glip_host_plan_nms": (*(ctypes.c_int,) * 3, ctypes.c_float, ctypes.c_longlong * 7),
}


def compiler() -> str | None:
    """The C++ compiler of this machine."""
    return shutil.which(os.environ.get("CXX", "g++"))


def build(library: Path) -> None:
    """Compile the host shim to a shared library."""
    sources = sorted((PLUGINS / "host_shim").glob("*.cpp"))
    options = ["-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    options += ["-Wno-unknown-pragmas", "-I", str(PLUGINS / "host_shim")]
    subprocess.run([str(compiler()), *options, *map(str, sources), "-o", str(library)], check=True)


class HostKernels:
    """The library; arrays stand for device memory."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        for name, parameters in _PARAMETERS.items():
            getattr(self.library, name).argtypes = parameters

    def argument_bytes(self, kernel: str) -> list[int]:
        """The sizes of the kernel's parameters, by its own signature."""
        sizes = (ctypes.c_size_t * _MAX_ARGUMENTS)()
        count = self.library.glip_host_argument_bytes(kernel.encode(), sizes, _MAX_ARGUMENTS)
        assert count >= 0, f"no kernel {kernel}"
        return list(sizes[:count])

    def launch(self, launch: Launch, order: int = 0) -> int:
        """Run one launch; the arguments must be of the kernel's sizes. 0, or BARRIER_MISSED."""
        given = [ctypes.sizeof(argument) for argument in launch.arguments]
        assert given == self.argument_bytes(launch.kernel), launch.kernel
        pointers = launch.argument_pointers()
        return self.launch_raw(launch.kernel, launch.grid, launch.block, launch.shared_bytes, pointers, order)

    def launch_raw(
        self,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        shared_bytes: int,
        arguments: Any,
        order: int = 0,
    ) -> int:
        """Run a kernel as cuLaunchKernel would, from an array of argument addresses, or from its address."""
        sizes = _SIZE(*grid), _SIZE(*block), shared_bytes
        return int(self.library.glip_host_launch(kernel.encode(), *sizes, arguments, order))

    def im2col(
        self, x: np.ndarray, offset: np.ndarray, mask: np.ndarray, stride: int, order: int = 0, shift: int = 0
    ) -> np.ndarray:
        """Columns (B, C * 9, Ho * Wo); `shift` moves every buffer that many values off its alignment."""
        batch, channels, height, width = x.shape
        out_height, out_width = offset.shape[2:]
        x, offset, mask = (placed(array, shift) for array in (x, offset, mask))
        out = placed(np.full((batch, channels * 9, out_height * out_width), np.nan, x.dtype), shift)
        sizes = (batch, channels, height, width, out_height, out_width, stride)
        for launch in im2col_launches(x.dtype, *sizes, x, offset, mask, out):
            assert self.launch(launch, order) == 0
        return out

    def dyconv(
        self,
        x: np.ndarray,
        levels: Sequence[tuple[int, int]],
        groups: int,
        epsilon: Sequence[float],
        parameters: Sequence[np.ndarray],
        order: int = 0,
    ) -> np.ndarray:
        """x (B, N, C) -> (B, N, C); see `dyconv_launches`."""
        sizes = DyConvSizes(len(x), x.shape[2], groups, tuple(levels))
        out = placed(np.full(x.shape, np.nan, x.dtype))
        self._dyconv(sizes, epsilon, placed(x), parameters, out, order)
        return out

    def dyconv_maps(
        self,
        maps: Sequence[np.ndarray],
        groups: int,
        epsilon: Sequence[float],
        parameters: Sequence[np.ndarray],
        order: int = 0,
    ) -> list[np.ndarray]:
        """The same of each level (B, H, W, C), in memory of its own, the last one's before the first's."""
        sizes = DyConvSizes(len(maps[0]), maps[0].shape[3], groups, tuple(array.shape[1:3] for array in maps))
        given = [placed(array) for array in maps[::-1]][::-1]
        out = [placed(np.full(array.shape, np.nan, array.dtype)) for array in maps[::-1]][::-1]
        self._dyconv(sizes, epsilon, given, parameters, out, order)
        return out

    def _dyconv(
        self,
        sizes: DyConvSizes,
        epsilon: Sequence[float],
        x: Any,
        parameters: Sequence[np.ndarray],
        out: Any,
        order: int,
    ) -> None:
        dtype = parameters[0].dtype
        workspace = placed(np.full(dyconv_workspace_bytes(dtype, sizes), 0xFF, np.uint8))
        given = [placed(np.ascontiguousarray(array)) for array in parameters]
        for launch in dyconv_launches(dtype, sizes, epsilon, x, given, out, workspace):
            assert self.launch(launch, order) == 0

    def add_norm(
        self,
        x: np.ndarray,
        added: np.ndarray | None,
        bias: np.ndarray | None,
        norm_weight: np.ndarray | None,
        norm_bias: np.ndarray | None,
        epsilon: float,
        dtype: Any,
        order: int = 0,
    ) -> list[np.ndarray]:
        """The sum, the norm, or both, of rows (M, C); see `add_norm_launches`."""
        given = [None if array is None else placed(array) for array in (x, added, bias, norm_weight, norm_bias)]
        total = None if added is None else placed(np.full(x.shape, np.nan, np.float32))
        normed = None if norm_weight is None else placed(np.full(x.shape, np.nan, dtype))
        for launch in add_norm_launches(x.dtype, dtype, *x.shape, epsilon, *given, total, normed):
            assert self.launch(launch, order) == 0
        return [array for array in (total, normed) if array is not None]

    def candidates(
        self,
        sizes: CandidateSizes,
        threshold: float,
        classes: Sequence[np.ndarray],
        centerness: Sequence[np.ndarray],
        deltas: Sequence[np.ndarray],
        image_sizes: np.ndarray,
        order: int = 0,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """boxes (B, M, 4), scores (B, M), labels (B, M); see `candidates_launches`."""
        shape = (sizes.B, sizes.candidates)
        outputs = [placed(np.full((*shape, 4), np.nan, np.float32)), placed(np.full(shape, np.nan, np.float32))]
        outputs.append(placed(np.full(shape, 77, np.int32)))
        workspace = placed(np.full(candidates_workspace_bytes(sizes), 0xA5, np.uint8))
        inputs = [[placed(array) for array in arrays] for arrays in (classes, centerness, deltas)]
        given = (*inputs, placed(image_sizes), *outputs, workspace)
        for launch in candidates_launches(centerness[0].dtype, sizes, threshold, *given):
            assert self.launch(launch, order) == 0
        return tuple(outputs)  # type: ignore[return-value]

    def window_attention(
        self,
        qkv: np.ndarray,
        bias: np.ndarray,
        relative: np.ndarray,
        window: int,
        shift: int,
        scale: float,
        order: int = 0,
    ) -> np.ndarray:
        """qkv (B, H, W, 3C) -> (B, H, W, C); see `window_attention_launches`."""
        heads, channels = len(relative), qkv.shape[3] // 3
        sizes = WindowSizes(*qkv.shape[:3], heads, channels // heads, window, shift)
        out = placed(np.full((*qkv.shape[:3], channels), np.nan, qkv.dtype))
        for launch in window_attention_launches(qkv.dtype, sizes, scale, *map(placed, (qkv, bias, relative)), out):
            assert self.launch(launch, order) == 0
        return out

    def text_reads(
        self,
        v: np.ndarray,
        keys: np.ndarray,
        bias: np.ndarray,
        heads: int,
        limits: tuple[float, float],
        order: int = 0,
    ) -> np.ndarray:
        """v (B, N, C) -> (B, heads * T, C); see `text_reads_launches`."""
        sizes = BiAttentionSizes(*v.shape, heads, keys.shape[1] // heads)
        out = placed(np.full(keys.shape, np.nan, v.dtype))
        workspace = placed(np.full(text_reads_workspace_bytes(v.dtype, sizes), 0xFF, np.uint8))
        given = [placed(array) for array in (v, keys, bias)]
        for launch in text_reads_launches(v.dtype, sizes, limits, *given, out, workspace):
            assert self.launch(launch, order) == 0
        return out

    def image_reads(
        self,
        v: np.ndarray,
        keys: np.ndarray,
        bias: np.ndarray,
        values: np.ndarray,
        mask: np.ndarray,
        gain: np.ndarray,
        offset: np.ndarray,
        limits: tuple[float, float],
        order: int = 0,
    ) -> np.ndarray:
        """v (B, N, C) -> (B, N, C); see `image_reads_launches`."""
        tokens = mask.shape[1]
        sizes = BiAttentionSizes(*v.shape, keys.shape[1] // tokens, tokens)
        out = placed(np.full(v.shape, np.nan, v.dtype))
        given = [placed(array) for array in (v, keys, bias, values, mask, gain, offset)]
        for launch in image_reads_launches(v.dtype, sizes, limits, *given, out):
            assert self.launch(launch, order) == 0
        return out

    def prepare_picture(
        self, picture: np.ndarray, sizes: ResizeSizes, values: np.ndarray, bgr: bool, order: int = 0
    ) -> np.ndarray:
        """picture (h0, w0, 3) uint8 -> (3, H, W); see `resize_launches`."""
        (h0, w0), (h, w) = sizes.given, sizes.resized
        given = [placed(array) for array in (picture, resize_filter(w0, w), resize_filter(h0, h), values)]
        between = placed(np.full(sizes.across_bytes, 77, np.uint8))
        image = placed(np.full((3, *sizes.padded), np.nan, np.float32))
        for launch in resize_launches(sizes, bgr, *given, between, image):
            assert self.launch(launch, order) == 0
        return image

    def nms(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        iou_threshold: float,
        detections: int,
        order: int = 0,
        change: dict[str, tuple[int, int, int]] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """boxes (B, D, 4), scores (B, D), labels (B, D), count (B,); `change` gives kernels another grid."""
        batch, candidates = scores.shape
        inputs = [
            placed(array.astype(dtype))
            for array, dtype in ((boxes, np.float32), (scores, np.float32), (labels, np.int32))
        ]
        outputs = [
            placed(np.full(shape, 77, dtype))
            for shape, dtype in (
                ((batch, detections, 4), np.float32),
                ((batch, detections), np.float32),
                ((batch, detections), np.int32),
                ((batch,), np.int32),
            )
        ]
        workspace = placed(np.full(nms_workspace_bytes(batch, candidates, detections), 0xA5, np.uint8))
        for launch in nms_launches(batch, candidates, detections, iou_threshold, *inputs, *outputs, workspace):
            grid = (change or {}).get(launch.kernel, launch.grid)
            assert self.launch(Launch(launch.kernel, grid, launch.block, 0, launch.arguments), order) == 0
        return tuple(outputs)  # type: ignore[return-value]


def placed(array: np.ndarray, shift: int = 0) -> np.ndarray:
    """A copy that begins `shift` values after a multiple of 64 bytes, as device memory does with shift 0."""
    room = np.empty(array.nbytes + 64 + shift * array.itemsize, np.uint8)
    start = -room.ctypes.data % 64 + shift * array.itemsize
    moved = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved
