"""The compiled kernels as functions of NumPy arrays: what C gets is checked first, and held until it is done."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int, c_int64
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glip_export.addresses import Array, Arrays

OFFSET_COLUMNS = 32  # kNarrow in dyconv.cpp
LANES = 16  # kLanes at most: what channels are taken by
PREDICTED = 27  # of each position by the offset convolution
PRECISIONS = ("fp32", "int16", "int8")  # by C's number for them

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
_SWIN_PARAMETERS = Arrays(
    *("f4",) * 4,  # the norms
    *("u1", "f4") * 4,  # queries with keys and values, projection, the MLP's two
    "f4",  # the relative biases
)
_BERT_PARAMETERS = Arrays(*("f4",) * 4, *("u1", "f4") * 4)  # as Swin's, without relative biases
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {  # result, parameters: as the .cpp files declare them
    "glip_panel": (c_int64, ()),
    "glip_has_bf16": (c_int, ()),
    "glip_has_int16": (c_int, ()),
    "glip_has_int8": (c_int, ()),
    "glip_deform_conv_pack": (None, (_FLOATS, c_int64, c_int, _PACKED_OUT)),
    "glip_offset_conv_pack": (None, (_FLOATS, c_int64, _PACKED_OUT)),
    "glip_dyconv": (
        _enough_memory,
        (_SIZES, Arrays("f4"), Arrays("f4", written=True), _DYCONV_PARAMETERS, _FLOATS, c_int, c_int),
    ),
    "glip_bf16_pays": (c_int, ()),
    "glip_layer_pack": (None, (_FLOATS, c_int64, c_int64, c_int, _PACKED_OUT)),
    "glip_swin_block": (
        _enough_memory,
        (_SIZES, _FLOATS, _SWIN_PARAMETERS, _FLOATS, _FLOATS_OUT, c_int, c_int),
    ),
    "glip_patch_embed": (
        _enough_memory,
        (_SIZES, _FLOATS, _PACKED, *(_FLOATS,) * 3, c_float, _FLOATS_OUT, c_int),
    ),
    "glip_bert_layer": (
        _enough_memory,
        (_SIZES, *(_FLOATS,) * 2, _BERT_PARAMETERS, _FLOATS, _FLOATS_OUT, c_int, c_int),
    ),
    "glip_bi_attention": (
        _enough_memory,
        (_SIZES, *(_FLOATS,) * 6, *(_FLOATS_OUT,) * 2, *(c_float,) * 3, c_int, c_int),
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
        self.has_bf16 = bool(self._library.glip_has_bf16())  # the CPU: no kernel of ours takes it
        self.has_int16 = bool(self._library.glip_has_int16())
        self.has_int8 = bool(self._library.glip_has_int8())
        self.fingerprint = path.stem

    @cached_property
    def bf16_pays(self) -> bool:
        """Whether this CPU computes bf16 products faster than fp32's, which was measured."""
        return self.has_bf16 and bool(self._library.glip_bf16_pays())

    def pad_bias(self, bias: F32) -> F32:
        """A linear layer's bias with zeros up to whole panels."""
        return np.pad(bias, (0, self.padded(len(bias)) - len(bias)))

    def padded(self, width: int) -> int:
        """The width that packed weights have for a layer of `width`."""
        return -(-width // self.panel) * self.panel

    def pack_layer(self, layer: tuple[F32, F32], precision: str) -> tuple[Bytes, F32]:
        """A linear layer's weight (out, in) and bias (out,), packed for `swin_block` and padded; out to whole panels.

        int8 has a scale for each output: that by which its largest weight is 127. Weights that were quantized so
        before come out as the same whole numbers.
        """
        weight, bias = np.ascontiguousarray(layer[0]), layer[1]
        if weight.ndim != 2 or not weight.size:
            raise ValueError(f"a layer's weight has shape {weight.shape} and should be (out, in)")
        _check_shape("a layer's bias", bias, weight.shape[:1])
        out, depth = weight.shape
        number = self._number("a layer", precision, PRECISIONS)
        packed = np.empty(self._layer_bytes(depth, out, precision), np.uint8)
        self._library.glip_layer_pack(weight, depth, out, number, packed)
        return packed, self.pad_bias(bias)

    def swin_block(
        self,
        x: F32,
        out: F32,
        parameters: Sequence[NDArray],
        heads: int,
        window: int,
        shift: int,
        hidden: int,
        epsilon: tuple[float, float],
        precision: str,
        threads: int,
    ) -> None:
        """One block of Swin from x (B, H, W, C) to `out`, another array of that shape.

        parameters: 13 arrays in the order of swin_block.cpp: both norms, the four layers as `pack_layer` gives them,
        the queries with their scale, the relative biases (heads, window^2, `padded(window^2)`).
        """
        if x.ndim != 4 or not x.size:
            raise ValueError(f"swin_block: x has shape {x.shape} and should be (B, H, W, C)")
        _check_shape("swin_block: out", out, x.shape)
        if np.shares_memory(x, out):
            raise ValueError("swin_block: out is x itself")
        channels, positions = x.shape[3], window * window
        if heads < 1 or channels % (32 * heads) or hidden < 1 or hidden % 32:
            raise ValueError(f"swin_block: {heads} heads of {channels} channels, {hidden} hidden: not of whole 32s")
        if window < 1 or not 0 <= shift < window:
            raise ValueError(f"swin_block: there is no window of {window} with a shift of {shift}")
        number = self._number("swin_block", precision, PRECISIONS)
        relative = heads * positions * self.padded(positions)
        self._check_layers("swin_block", parameters, channels, hidden, precision, [relative])
        sizes = np.array([*x.shape, heads, window, shift, hidden], np.int64)
        limits = np.array(epsilon, np.float32).reshape(2)
        self._library.glip_swin_block(sizes, x, parameters, limits, out, number, _whole("swin_block", threads))

    def patch_embed(
        self, images: F32, out: F32, parameters: Sequence[NDArray], patch: int, epsilon: float, threads: int
    ) -> None:
        """Patches of images (B, 3, H, W), projected and normalized -> `out` (B, H // patch, W // patch, C).

        parameters: the projection of 3 * patch^2 values as `pack_layer` gives it in fp32, the norm's weight and bias.
        """
        if images.ndim != 4 or not images.size or images.shape[1] != 3 or patch < 1:
            raise ValueError(f"patch_embed: images have shape {images.shape} and should be (B, 3, H, W)")
        batch, _, height, width = images.shape
        channels = out.shape[-1]
        _check_shape("patch_embed: out", out, (batch, height // patch, width // patch, channels))
        if channels < 1 or channels % 32:
            raise ValueError(f"patch_embed: {channels} channels are not whole 32s")
        counts = (self._layer_bytes(3 * patch * patch, channels, "fp32"), self.padded(channels), channels, channels)
        _check_sizes("patch_embed: parameters", parameters, counts)
        sizes = np.array([batch, height, width, channels, patch], np.int64)
        threads = _whole("patch_embed", threads)
        self._library.glip_patch_embed(sizes, images, *parameters, epsilon, out, threads)

    def bert_layer(
        self,
        x: F32,
        mask: F32,
        out: F32,
        parameters: Sequence[NDArray],
        heads: int,
        hidden: int,
        limits: tuple[float, float, float, float],
        epsilon: tuple[float, float],
        precision: str,
        threads: int,
    ) -> None:
        """One layer of BERT from x (B, T, C) to `out`, another array of that shape; scores get mask (B, 1, 1, T) added.

        parameters: 12 arrays in the order of bert_layer.cpp: both norms, the four layers as `pack_layer` gives them,
        the queries with their scale. limits: what scores are clamped to, then the MLP's values and the result.
        """
        if x.ndim != 3 or not x.size:
            raise ValueError(f"bert_layer: x has shape {x.shape} and should be (B, T, C)")
        batch, tokens, channels = x.shape
        _check_shape("bert_layer: out", out, x.shape)
        _check_shape("bert_layer: mask", mask, (batch, 1, 1, tokens))
        if np.shares_memory(x, out):
            raise ValueError("bert_layer: out is x itself")
        if heads < 1 or channels % heads or channels % LANES or hidden < 1 or hidden % LANES:
            raise ValueError(
                f"bert_layer: {heads} heads of {channels} channels, {hidden} hidden: not of whole {LANES}s"
            )
        number = self._number("bert_layer", precision, PRECISIONS)
        self._check_layers("bert_layer", parameters, channels, hidden, precision)
        sizes = np.array([*x.shape, heads, hidden], np.int64)
        numbers = np.array([*limits, *epsilon], np.float32).reshape(6)
        self._library.glip_bert_layer(sizes, x, mask, parameters, numbers, out, number, _whole("bert_layer", threads))

    def _check_layers(
        self,
        what: str,
        parameters: Sequence[NDArray],
        channels: int,
        hidden: int,
        precision: str,
        more: Sequence[int] = (),
    ) -> None:
        """Both norms, then attention's and the MLP's four layers, packed; more: the sizes of what comes after."""
        counts = [channels] * 4
        for depth, width in ((channels, 3 * channels), (channels, channels), (channels, hidden), (hidden, channels)):
            counts += [self._layer_bytes(depth, width, precision), self.padded(width)]
        counts += more
        _check_sizes(f"{what}: parameters", parameters, counts)

    def _layer_bytes(self, depth: int, width: int, precision: str) -> int:
        """linear_bytes of linear.hpp: values of the depth's whole units, and where they are whole a scale a column."""
        size, unit, scale = {"fp32": (4, 1, 0), "int16": (2, 2, 4), "int8": (1, 4, 4)}[precision]
        return (-(-depth // unit) * unit * size + scale) * self.padded(width)

    def pack_deform_conv(self, weight: F32, precision: str) -> Bytes:
        """A deformable convolution's weight (C, C, 3, 3), packed for a precision; C is a multiple of `panel`."""
        weight = np.ascontiguousarray(weight)
        self._check_channels("a deformable convolution", len(weight))
        _check_shape("a deformable convolution's weight", weight, (len(weight), len(weight), 3, 3))
        number = self._number("a deformable convolution", precision, PRECISIONS)
        packed = np.empty(_deform_conv_bytes(len(weight), precision), np.uint8)
        self._library.glip_deform_conv_pack(weight, len(weight), number, packed)
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
        precision: str,
        threads: int,
    ) -> None:
        """One DyConv block over levels of (H, W) `sizes`, none larger than the one before, from `features` to `out`.

        Each of the two is one map (B, C, H, W) a level, or a single array (B, N, C) of all levels' positions.
        parameters: 20 arrays in the order of dyconv.cpp, the four convolutions' weights packed, the first three for
        the precision.
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
        number = self._number("dyconv", precision, PRECISIONS)
        counts = _dyconv_counts(channels, precision)
        _check_sizes("dyconv: parameters", parameters, counts)
        numbers = [batch, channels, groups, len(sizes), *planes, *(side for size in sizes for side in size)]
        self._library.glip_dyconv(
            np.array(numbers, np.int64),
            features,
            out,
            parameters,
            np.array(epsilon, np.float32).reshape(3),
            number,
            _whole("dyconv", threads),
        )

    def bi_attention(
        self,
        image: F32,
        text: tuple[F32, F32, F32],
        mask: F32,
        limits: tuple[float, float],
        to_text: F32,
        to_image: F32,
        precision: str,
        threads: int,
        norm: F32 | None = None,
        epsilon: float = 0.0,
    ) -> None:
        """The image's half of a folded bi-attention: image (B, N, C) and a text of h heads and T tokens.

        text: keys (B, h*T, C), their bias (B, h*T, 1) and values (B, h*T, C). mask (B, 1, 1, T) is added to the scores
        that the image reads by. Gives to_text (B, h*T, C), the means of `image`, and to_image (B, N, C), what it reads.
        With norm (4, C), a LayerNorm's weight and bias, a gain and an offset, `image` is normalised first, and to_image
        is that plus gain * (what it reads + offset).
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
        if norm is not None:
            _check_shape("bi_attention: norm", norm, (4, channels))
        sizes = np.array([*image.shape, scores // tokens, tokens, norm is not None], np.int64)
        self._library.glip_bi_attention(
            sizes,
            image,
            keys,
            bias,
            values,
            mask,
            np.empty(0, np.float32) if norm is None else norm,
            to_text,
            to_image,
            *limits,
            epsilon,
            self._number("bi_attention", precision, PRECISIONS),
            _whole("bi_attention", threads),
        )

    def _check_channels(self, what: str, channels: int) -> None:
        if channels < 1 or channels % self.panel:
            raise ValueError(f"{what} has {channels} channels, no multiple of {self.panel}")

    def _number(self, what: str, precision: str, choices: Sequence[str]) -> int:
        if precision not in choices:
            raise ValueError(f"{what}: there is no precision {precision!r}: choose one of {', '.join(choices)}")
        if precision != "fp32" and not getattr(self, f"has_{precision}"):
            raise ValueError(f"{what}: these kernels have no {precision}")
        return PRECISIONS.index(precision)


def _whole(what: str, threads: int) -> int:
    if threads < 1:
        raise ValueError(f"{what}: it takes 1 thread or more, not {threads}")
    return int(threads)


def _deform_conv_bytes(channels: int, precision: str) -> int:
    sizes = {"fp32": (4, 0), "int16": (2, 4), "int8": (1, 8)}  # of a weight, and more of a channel
    weight, channel = sizes[precision]
    return 9 * channels * channels * weight + channels * channel


def _dyconv_counts(channels: int, precision: str) -> list[int]:
    """How many values each of the 20 parameters has, bytes where it is packed."""
    hidden = channels // 4
    convolution = [_deform_conv_bytes(channels, precision), channels, channels, channels]
    layers = [channels, 1, hidden * channels, hidden, 4 * channels * hidden, 4 * channels]
    return [*convolution * 3, *layers, 9 * channels * OFFSET_COLUMNS * 4, OFFSET_COLUMNS]


def _check_shape(what: str, array: NDArray, shape: tuple[int, ...]) -> None:
    if array.shape != tuple(shape):
        raise ValueError(f"{what} has shape {array.shape} and should have {tuple(shape)}")


def _check_sizes(what: str, arrays: Sequence[NDArray], sizes: Sequence[int]) -> None:
    _check_count(what, arrays, len(sizes))
    for place, (array, size) in enumerate(zip(arrays, sizes, strict=True)):
        if array.size != size:
            raise ValueError(f"{what}[{place}] has {array.size} values and should have {size}")


def _check_count(what: str, arrays: Sequence[NDArray], count: int) -> None:
    if len(arrays) != count:
        raise ValueError(f"{what} are {len(arrays)} arrays and should be {count}")
