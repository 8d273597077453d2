"""A bi-attention in our CUDA kernels, as operators of PyTorch: the scores of positions and tokens are never written."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glip_export.addresses import in_stream_order
from glip_export.runtime.torch_cuda.kernels import NUMPY_DTYPES, put_on_stream
from glip_export.trt.bi_attention_launches import (
    BiAttentionSizes,
    image_reads_launches,
    text_reads_launches,
    text_reads_workspace_bytes,
)


@torch.library.custom_op("glip_export::text_reads", mutates_args=(), device_types="cuda")
def text_reads(
    v: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, heads: int, limits: list[float]
) -> torch.Tensor:
    """v (B, N, C), keys (B, h * T, C), bias (B, h * T) -> (B, h * T, C): softmax(clamp(keys v^T + bias)) v, over N.

    All float32 or all float16; C a multiple of 32 up to 256, T of 1 to 256; limits: what scores are clamped to. May be
    captured in a CUDA graph after a first call. Raises ValueError for other types or sizes.
    """
    sizes, dtype = checked_sizes(v, keys, bias, heads), NUMPY_DTYPES[v.dtype]
    given, out = [tensor.contiguous() for tensor in (v, keys, bias)], v.new_empty(keys.shape)
    workspace = v.new_empty(text_reads_workspace_bytes(dtype, sizes), dtype=torch.uint8)
    pointers = [in_stream_order(tensor) for tensor in (*given, out, workspace)]
    put_on_stream(text_reads_launches(dtype, sizes, (limits[0], limits[1]), *pointers), v)
    return out


@text_reads.register_fake
def _empty_text(
    v: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, heads: int, limits: list[float]
) -> torch.Tensor:
    return v.new_empty(keys.shape)


@torch.library.custom_op("glip_export::image_reads", mutates_args=(), device_types="cuda")
def image_reads(
    v: torch.Tensor,
    keys: torch.Tensor,
    bias: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    gain: torch.Tensor,
    offset: torch.Tensor,
    limits: list[float],
) -> torch.Tensor:
    """v + gain * (softmax(clamp(keys v^T + bias) + mask) values + offset), over the tokens of each head; (B, N, C).

    v, keys, bias and limits: see `text_reads`; values as keys; mask (B, T), gain and offset (C,) float32. A head whose
    tokens are all masked reads their mean. May be captured in a CUDA graph after a first call. Raises ValueError for
    other types or sizes.
    """
    sizes = checked_image_sizes(v, keys, bias, values, mask, gain, offset)
    given, out = [tensor.contiguous() for tensor in (v, keys, bias, values, mask, gain, offset)], v.new_empty(v.shape)
    pointers = [in_stream_order(tensor) for tensor in (*given, out)]
    put_on_stream(image_reads_launches(NUMPY_DTYPES[v.dtype], sizes, (limits[0], limits[1]), *pointers), v)
    return out


@image_reads.register_fake
def _empty_image(
    v: torch.Tensor,
    keys: torch.Tensor,
    bias: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    gain: torch.Tensor,
    offset: torch.Tensor,
    limits: list[float],
) -> torch.Tensor:
    return v.new_empty(v.shape)


def checked_sizes(v: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, heads: int) -> BiAttentionSizes:
    """Raises ValueError for what `text_reads` does not take."""
    if v.dtype not in NUMPY_DTYPES or {keys.dtype, bias.dtype} != {v.dtype}:
        raise ValueError(f"a bi-attention takes float32 or float16, not {v.dtype} with {keys.dtype} and {bias.dtype}")
    fits = v.ndim == keys.ndim == 3 and keys.shape[::2] == v.shape[::2] and bias.shape == keys.shape[:2]
    if not fits or heads < 1 or keys.shape[1] % heads:
        shapes = f"{tuple(keys.shape)} and biases {tuple(bias.shape)} of {heads} heads beside {tuple(v.shape)}"
        raise ValueError(f"a bi-attention does not take keys {shapes}")
    batch, positions, channels = v.shape
    return BiAttentionSizes(batch, positions, channels, heads, keys.shape[1] // heads)


def checked_image_sizes(
    v: torch.Tensor,
    keys: torch.Tensor,
    bias: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    gain: torch.Tensor,
    offset: torch.Tensor,
) -> BiAttentionSizes:
    """Raises ValueError for what `image_reads` does not take."""
    if mask.ndim != 2 or not mask.shape[1] or mask.shape[0] != v.shape[0] or keys.shape[1] % mask.shape[1]:
        raise ValueError(f"a bi-attention does not take a mask {tuple(mask.shape)} beside keys {tuple(keys.shape)}")
    sizes = checked_sizes(v, keys, bias, keys.shape[1] // mask.shape[1])
    if (values.shape, values.dtype) != (keys.shape, keys.dtype):
        raise ValueError(f"a bi-attention does not take values {values.dtype} {tuple(values.shape)}")
    vectors = {tuple(gain.shape), tuple(offset.shape)}
    if vectors != {(sizes.C,)} or {mask.dtype, gain.dtype, offset.dtype} != {torch.float32}:
        raise ValueError(f"a bi-attention's mask, gain and offset are float32, of {sizes.C} channels")
    return sizes


def bi_attention(
    epsilon: float,
    limits: Sequence[float],
    image: torch.Tensor,
    keys: torch.Tensor,
    bias: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    gain: torch.Tensor,
    offset: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A node of `graphs.bi_attention_node`: what the text reads, and the image's sum; in three calls."""
    ops, added, within = torch.ops.glip_export, bias.flatten(1), list(limits)
    (v,) = ops.add_norm.default(image, None, None, norm_weight, norm_bias, epsilon, image.dtype)
    to_text = ops.text_reads.default(v, keys, added, keys.shape[1] // mask.shape[-1], within)
    return to_text, ops.image_reads.default(v, keys, added, values, mask.flatten(1), gain, offset, within)
