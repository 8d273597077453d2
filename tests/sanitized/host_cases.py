"""The CUDA kernels' edge cases on the host shim, recorded as they are launched, for host_cases.cpp."""

from __future__ import annotations

from pathlib import Path

import host_text_layer
import numpy as np
from case_file import CaseFile
from drawn_candidates import LEVELS, drawn, with_ties
from host_kernels import HostKernels

from glip_export.trt.kernels import Launch, WindowSizes
from glip_export.trt.resize_launches import ResizeSizes


def write_host_cases(path: Path, library: Path) -> None:
    """Launches of every kernel: around the edges of tiles, slabs and maps, addresses off alignment, no candidate."""
    with CaseFile(path) as file:
        host = Recording(library, file)
        rng = np.random.default_rng(0)
        for dtype in (np.float32, np.float16):
            for sizes, out, stride, spread in (
                ((1, 1, 1, 1), (1, 1), 1, 0.0),
                ((2, 9, 3, 5), (3, 5), 1, 2.0),
                ((1, 33, 7, 6), (4, 3), 2, 100.0),
                ((1, 8, 1, 300), (1, 300), 1, 3e4),
                ((1, 3, 2, 2), (1, 1), 2, np.inf),
            ):
                x = rng.normal(0, 1, sizes).astype(dtype)
                offset = rng.choice([-spread, -0.5, 0, spread], (sizes[0], 18, *out)).astype(dtype)
                mask = rng.uniform(0, 1, (sizes[0], 9, *out)).astype(dtype)
                for shift in (0, 1):
                    host.im2col(x, offset, mask, stride, order=2, shift=shift)
            for levels in (((1, 1),), ((13, 11), (7, 6)), ((5, 9), (3, 5), (2, 3))):
                write_dyconv(host, rng, dtype, levels)
            for size, depth, window, shift in (((1, 1), 16, 7, 3), ((8, 9), 32, 7, 3), ((3, 4), 48, 3, 0)):
                parts = (
                    (2, *size, 6 * depth),
                    (6 * depth,),
                    WindowSizes(2, *size, 2, depth, window, shift).relative_shape,
                )
                qkv, bias, relative = (rng.normal(0, 1, shape).astype(dtype) for shape in parts)
                host.window_attention(qkv, bias, relative, window, shift, 0.25, order=2)
            for channels in (8, 96, 776):
                vectors = rng.normal(0, 1, (3, channels)).astype(np.float32)
                x, added = rng.normal(0, 1, (2, 3, channels)).astype(np.float32)
                host.add_norm(x, added.astype(dtype), *vectors, 1e-5, dtype, order=2)
                host.add_norm(x.astype(dtype), None, None, *vectors[1:], 1e-5, dtype, order=2)
            write_text_layer(host, rng, dtype)
            for given in (drawn(2, 3, 70, dtype=dtype), with_ties(drawn(1, 30, 1100, LEVELS[:3], dtype), 1)):
                inputs = (given.classes, given.centerness, given.deltas, given.image_sizes)
                host.candidates(given.sizes, given.threshold, *inputs, order=2)
            for positions, channels, tokens in ((1, 32, 1), (33, 64, 33), (65, 96, 5)):
                write_bi_attention(host, rng, dtype, positions, channels, tokens)
        for place, (given, resized) in enumerate((((1, 1), (1, 1)), ((9, 40), (3, 260)), ((300, 2), (31, 2)))):
            picture = rng.integers(0, 256, (*given, 3), dtype=np.uint8)
            values, sizes = rng.random((3, 256), np.float32), ResizeSizes(given, resized, (32, 288))
            host.prepare_picture(picture, sizes, values, bgr=place == 1, order=2)
        for candidates in (0, 1, 255, 256, 257, 513):
            for detections in (1, 100, 300):
                corner = rng.uniform(0, 200, (2, candidates, 2))
                boxes = np.concatenate([corner, corner + rng.uniform(0, 60, corner.shape)], -1).astype(np.float32)
                scores = np.floor(rng.random((2, candidates)) * 50).astype(np.float32) / 50
                scores[rng.random((2, candidates)) < 0.2] = -1
                host.nms(boxes, scores, rng.integers(0, 3, (2, candidates)), 0.5, detections, order=candidates % 4)


def write_dyconv(
    host: HostKernels, rng: np.random.Generator, dtype: np.typing.DTypeLike, levels: tuple[tuple[int, int], ...]
) -> None:
    """Offsets of all kinds, some far outside."""
    channels = 32
    convolution = [(channels, 9 * channels), *[(channels,)] * 3]
    lines = [(channels // 4, channels), (channels // 4,), (4 * channels, channels // 4), (4 * channels,)]
    shapes = [(27, 9 * channels), (27,), *convolution * 3, (channels,), (1,), *lines]
    parameters = [rng.normal(0, 0.3, shape).astype(dtype) for shape in shapes]
    maps = [rng.normal(0, 1, (2, *size, channels)).astype(dtype) for size in levels]
    host.dyconv_maps(maps, 8, (1e-5,) * 3, parameters, order=2)


def write_text_layer(host: HostKernels, rng: np.random.Generator, dtype: np.typing.DTypeLike) -> None:
    """Around the edges of groups of queries and keys, rows that no warp divides, the last values of a GELU."""
    for tokens, depth in ((1, 8), (17, 16), (65, 40)):
        qkv = rng.normal(0, 1, (2, tokens, 6 * depth)).astype(dtype)
        host_text_layer.attention(host, qkv, np.zeros((2, tokens), np.float32), 2, 0.3, (-2.0, 2.0), order=2)
    x, added = rng.normal(0, 1, (2, 3, 45)).astype(np.float32)
    ones = np.ones(45, np.float32)
    host_text_layer.norm(host, x, added.astype(dtype), ones, ones, 1e-5, order=2)
    host_text_layer.gelu(host, rng.normal(0, 1, 264).astype(dtype), order=2)


def write_bi_attention(
    host: HostKernels,
    rng: np.random.Generator,
    dtype: np.typing.DTypeLike,
    positions: int,
    channels: int,
    tokens: int,
) -> None:
    """Three heads, two images; some tokens are masked."""
    v, keys, values = (rng.normal(0, 1, (2, n, channels)).astype(dtype) for n in (positions, 3 * tokens, 3 * tokens))
    bias, mask = rng.normal(0, 1, (2, 3 * tokens)).astype(dtype), np.zeros((2, tokens), np.float32)
    mask[1, tokens // 2 :] = -9e15
    gain, offset = rng.normal(0, 1, (2, channels)).astype(np.float32)
    limits = (-50000.0, 50000.0)
    host.text_reads(v, keys, bias, 3, limits, order=2)
    host.image_reads(v, keys, bias, values, mask, gain, offset, limits, order=2)


class Recording(HostKernels):
    """Launches, and writes each launch with what its memory held before and after."""

    def __init__(self, library: Path, file: CaseFile) -> None:
        super().__init__(library)
        self._file = file

    def launch(self, launch: Launch, order: int = 0) -> int:
        """As HostKernels."""
        arrays = [argument.held[0] if hasattr(argument, "held") else None for argument in launch.arguments]
        before = [None if array is None else array.copy() for array in arrays]
        outcome = super().launch(launch, order)
        file = self._file
        file.word(launch.kernel)
        file.values(np.array(launch.grid, "<u4"))
        file.values(np.array(launch.block, "<u4"))
        file.integers(order, launch.shared_bytes, len(arrays))
        for argument, array, held in zip(launch.arguments, arrays, before, strict=True):
            if array is None or held is None:
                file.word("value")
                file.values(np.frombuffer(bytes(argument), np.uint8))
                continue
            file.word("memory")
            file.integers((argument.value or 0) % 64)
            for values in (held, array):
                file.values(np.frombuffer(values.tobytes(), np.uint8))
        return outcome
