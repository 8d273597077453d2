"""The compiled kernels as functions of NumPy arrays: what C gets is checked first, and held until it is done."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int, c_int64
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glip_export.addresses import Array, Arrays

OFFSET_COLUMNS = 32  # kNarrow in dyconv.cpp
PREDICTED = 27  # of each position by the offset convolution

Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]


def _enough_memory(result: int) -> None:
    if result:
        raise MemoryError("the CPU kernels' memory is not to be had")


_FLOATS, _FLOATS_OUT = Array(np.float32), Array(np.float32, written=True)
_PACKED, _PACKED_OUT = Array(np.uint8), Array(np.uint8, written=True)
_SIZES = Array(np.int64)
_DYCONV_PARAMETERS = Arrays(
    *("u1", "f4", "f4", "f4") * 3,  # of each convolution: packed weight, bias, GroupNorm's weight and bias
    *("f4", "f4") * 3,  # AttnConv, DyReLU's two layers
    *("u1", "f4"),  # the offset convolution, packed
)
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {  # result, parameters: as the .cpp files declare them
    "glip_panel": (c_int64, ()),
    "glip_has_bf16": (c_int, ()),
    "glip_linear_pack": (None, (_FLOATS, c_int64, c_int64, c_int, _PACKED_OUT)),
    "glip_mlp": (_enough_memory, (_SIZES, _FLOATS, _PACKED, _FLOATS, _PACKED, _FLOATS, _FLOATS_OUT, c_int, c_int)),
    "glip_deform_conv_pack": (None, (_FLOATS, c_int64, c_int, _PACKED_OUT)),
    "glip_offset_conv_pack": (None, (_FLOATS, c_int64, _PACKED_OUT)),
    "glip_dyconv": (
        _enough_memory,
        (_SIZES, Arrays("f4"), Arrays("f4", written=True), _DYCONV_PARAMETERS, _FLOATS, c_int, c_int),
    ),
    "glip_bi_attention": (
        _enough_memory,
        (_SIZES, *(_FLOATS,) * 5, *(_FLOATS_OUT,) * 2, c_float, c_float, c_int, c_int),
    ),
}


class Kernels:
    """The compiled library. Arrays are C-contiguous; packed weights fit this machine only.

    Sizes that do not fit each other are a ValueError, arrays of another dtype, not contiguous or read-only where they
    are written a ctypes.ArgumentError: nothing was called then. A MemoryError: the
    kernels did not get theirs.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        for name, (result, parameters) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, parameters
        self.panel = int(self._library.glip_panel())  # what DyConv's channels must be a multiple of
        self.has_bf16 = bool(self._library.glip_has_bf16())
        self.fingerprint = path.stem

    def pack_linear(self, weight: F32, bf16: bool) -> Bytes:
        """A linear layer's weight (out, in), packed; in bf16 with what the rounding cut off."""
        weight = np.ascontiguousarray(weight)
        if weight.ndim != 2 or not weight.size:
            raise ValueError(f"a linear layer's weight has shape {weight.shape} and should be (out, in)")
        out, depth = weight.shape
        packed = np.empty(self.padded(depth) * self.padded(out) * 4, np.uint8)
        self._library.glip_linear_pack(weight, depth, out, bool(bf16), packed)
        return packed

    def pad_bias(self, bias: F32) -> F32:
        """A linear layer's bias as `mlp` takes it."""
        return np.pad(bias, (0, self.padded(len(bias)) - len(bias)))

    def padded(self, width: int) -> int:
        """The width that packed weights have for a layer of `width`."""
        return -(-width // self.panel) * self.panel

    def mlp(
        self, x: F32, first: tuple[Bytes, F32], last: tuple[Bytes, F32], out: F32, bf16: bool, threads: int
    ) -> None:
        """out (..., O) = last(gelu(first(x))) of x (..., I); each layer its packed weight and padded bias."""
        if not (x.ndim and x.shape[-1] and out.ndim and out.shape[-1]):
            raise ValueError(f"mlp: x has shape {x.shape} and out {out.shape}: both need a last axis")
        width, result = x.shape[-1], out.shape[-1]
        hidden = self.padded(first[1].size)
        _check_shape("mlp: out", out, (*x.shape[:-1], result))
        _check_size("mlp: the first bias", first[1], hidden)
        _check_size("mlp: the first packed weight", first[0], self.padded(width) * hidden * 4)
        _check_size("mlp: the last bias", last[1], self.padded(result))
        _check_size("mlp: the last packed weight", last[0], hidden * self.padded(result) * 4)
        sizes = np.array([x.size // width, width, hidden, result], np.int64)
        self._library.glip_mlp(sizes, x, *first, *last, out, *self._how("mlp", bf16, threads))

    def pack_deform_conv(self, weight: F32, bf16: bool) -> Bytes:
        """A deformable convolution's weight (C, C, 3, 3), packed; C is a multiple of `panel`."""
        weight = np.ascontiguousarray(weight)
        self._check_channels("a deformable convolution", len(weight))
        _check_shape("a deformable convolution's weight", weight, (len(weight), len(weight), 3, 3))
        packed = np.empty(weight.size * (2 if bf16 else 4), np.uint8)
        self._library.glip_deform_conv_pack(weight, len(weight), bool(bf16), packed)
        return packed

    def pack_offset_conv(self, weight: F32, bias: F32) -> tuple[Bytes, F32]:
        """An offset convolution's weight (27, C, 3, 3), packed, and its bias (27,), padded."""
        weight = np.ascontiguousarray(weight)
        channels = weight.size // (PREDICTED * 9)
        _check_shape("an offset convolution's weight", weight, (PREDICTED, channels, 3, 3))
        _check_shape("an offset convolution's bias", bias, (PREDICTED,))
        packed = np.empty(9 * channels * OFFSET_COLUMNS * 4, np.uint8)
        self._library.glip_offset_conv_pack(weight, channels, packed)
        return packed, np.pad(bias, (0, OFFSET_COLUMNS - len(bias)))

    def dyconv(
        self,
        features: list[F32],
        out: list[F32],
        sizes: Sequence[tuple[int, int]],
        parameters: Sequence[NDArray],
        groups: int,
        epsilon: tuple[float, float, float],
        bf16: bool,
        threads: int,
    ) -> None:
        """One DyConv block over levels of (H, W) `sizes`, none larger than the one before, from `features` to `out`.

        Each of the two is one map (B, C, H, W) a level, or a single array (B, N, C) of all levels' positions.
        parameters: 20 arrays in the order of dyconv.cpp, the four convolutions' weights packed.
        """
        areas = [height * width for height, width in sizes]
        if not areas or min(min(size) for size in sizes) < 1 or sorted(areas, reverse=True) != areas:
            raise ValueError(f"dyconv: the levels' sizes are {list(sizes)}: at least one, and none larger than before")
        if not features or features[0].ndim not in (3, 4):
            raise ValueError("dyconv: features are one (B, C, H, W) a level, or one (B, N, C) of all")
        batch, channels = features[0].shape[0], features[0].shape[1 if features[0].ndim == 4 else 2]
        self._check_channels("dyconv", channels)
        if groups < 1 or channels % groups:
            raise ValueError(f"dyconv: {channels} channels cannot be normalised in {groups} groups")
        planes = []
        for name, arrays in (("features", features), ("out", out)):
            planes.append(bool(arrays) and arrays[0].ndim == 4)
            shapes = [(batch, channels, *size) for size in sizes] if planes[-1] else [(batch, sum(areas), channels)]
            _check_count(f"dyconv: {name}", arrays, len(shapes))
            for level, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
                _check_shape(f"dyconv: {name}[{level}]", array, shape)
        counts = _dyconv_counts(channels, bf16)
        _check_count("dyconv: parameters", parameters, len(counts))
        for place, (parameter, count) in enumerate(zip(parameters, counts, strict=True)):
            _check_size(f"dyconv: parameters[{place}]", parameter, count)
        numbers = [batch, channels, groups, len(sizes), *planes, *(side for size in sizes for side in size)]
        self._library.glip_dyconv(
            np.array(numbers, np.int64),
            features,
            out,
            parameters,
            np.array(epsilon, np.float32).reshape(3),
            *self._how("dyconv", bf16, threads),
        )

    def bi_attention(
        self,
        image: F32,
        text: tuple[F32, F32, F32],
        mask: F32,
        limits: tuple[float, float],
        to_text: F32,
        to_image: F32,
        bf16: bool,
        threads: int,
    ) -> None:
        """The image's half of a folded bi-attention: image (B, N, C) and a text of h heads and T tokens.

        text: keys (B, h*T, C), their bias (B, h*T, 1) and values (B, h*T, C). mask (B, 1, 1, T) is added to the scores
        that the image reads by. Gives to_text (B, h*T, C), the means of `image`, and to_image (B, N, C).
        """
        keys, bias, values = text
        if image.ndim != 3 or keys.ndim != 3 or not (image.shape[1] and mask.ndim and mask.shape[-1]):
            raise ValueError(
                f"bi_attention: image {image.shape}, keys {keys.shape} and mask {mask.shape} should be (B, N, C), "
                "(B, h*T, C) and (B, 1, 1, T)"
            )
        (batch, _, channels), scores, tokens = image.shape, keys.shape[1], mask.shape[-1]
        self._check_channels("bi_attention", channels)
        if not scores or scores % tokens:
            raise ValueError(f"bi_attention: {scores} keys are no whole number of heads of {tokens} tokens")
        _check_shape("bi_attention: keys", keys, (batch, scores, channels))
        _check_shape("bi_attention: values", values, keys.shape)
        _check_shape("bi_attention: bias", bias, (batch, scores, 1))
        _check_shape("bi_attention: mask", mask, (batch, 1, 1, tokens))
        _check_shape("bi_attention: to_text", to_text, keys.shape)
        _check_shape("bi_attention: to_image", to_image, image.shape)
        sizes = np.array([*image.shape, scores // tokens, tokens], np.int64)
        self._library.glip_bi_attention(
            sizes,
            image,
            keys,
            bias,
            values,
            mask,
            to_text,
            to_image,
            *limits,
            *self._how("bi_attention", bf16, threads),
        )

    def _check_channels(self, what: str, channels: int) -> None:
        if channels < 1 or channels % self.panel:
            raise ValueError(f"{what} has {channels} channels, no multiple of {self.panel}")

    def _how(self, what: str, bf16: bool, threads: int) -> tuple[bool, int]:
        if bf16 and not self.has_bf16:
            raise ValueError(f"{what}: these kernels have no bf16")
        if threads < 1:
            raise ValueError(f"{what}: it takes 1 thread or more, not {threads}")
        return bool(bf16), int(threads)


def _dyconv_counts(channels: int, bf16: bool) -> list[int]:
    """How many values each of the 20 parameters has, bytes where it is packed."""
    square, hidden = channels * channels, channels // 4
    convolution = [9 * square * (2 if bf16 else 4), channels, channels, channels]
    layers = [channels, 1, hidden * channels, hidden, 4 * channels * hidden, 4 * channels]
    return [*convolution * 3, *layers, 9 * channels * OFFSET_COLUMNS * 4, OFFSET_COLUMNS]


def _check_shape(what: str, array: NDArray, shape: tuple[int, ...]) -> None:
    if array.shape != tuple(shape):
        raise ValueError(f"{what} has shape {array.shape} and should have {tuple(shape)}")


def _check_size(what: str, array: NDArray, size: int) -> None:
    if array.size != size:
        raise ValueError(f"{what} has {array.size} values and should have {size}")


def _check_count(what: str, arrays: Sequence[NDArray], count: int) -> None:
    if len(arrays) != count:
        raise ValueError(f"{what} are {len(arrays)} arrays and should be {count}")
