"""A layer of BERT: our CUDA kernels between the library's products, as operators of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from glip_export.addresses import in_stream_order
from glip_export.runtime.torch_cuda.kernels import NUMPY_DTYPES, put_on_stream
from glip_export.trt.text_layer_launches import text_attention_launches, text_gelu_launches, text_norm_launches


@torch.library.custom_op("glip_export::text_attention", mutates_args=(), device_types="cuda")
def text_attention(
    qkv: torch.Tensor, mask: torch.Tensor, heads: int, scale: float, limits: list[float]
) -> torch.Tensor:
    """qkv (B, T, 3 * C), mask float32 (B or 1, T) -> (B, T, C): softmax(clamp(q k^T * scale) + mask) v of each head.

    qkv: float32 or float16; limits: what scores are clamped to. May be captured in a CUDA graph after a first call.
    Raises ValueError for other types or sizes.
    """
    dtype, (batch, tokens, channels) = _checked(qkv), qkv.shape
    if mask.dtype != torch.float32 or mask.ndim != 2 or mask.shape[1] != tokens or channels % (3 * heads):
        raise ValueError(f"the mask is {mask.dtype} {tuple(mask.shape)} beside {tuple(qkv.shape)} with {heads} heads")
    qkv, mask = qkv.contiguous(), mask.contiguous()
    out = qkv.new_empty(batch, tokens, channels // 3)
    sizes = batch, tokens, heads, channels // 3 // heads, mask.shape[0]
    pointers = [in_stream_order(tensor) for tensor in (qkv, mask, out)]
    put_on_stream(text_attention_launches(dtype, *sizes, scale, (limits[0], limits[1]), *pointers), qkv)
    return out


@text_attention.register_fake
def _(qkv: torch.Tensor, mask: torch.Tensor, heads: int, scale: float, limits: list[float]) -> torch.Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


@torch.library.custom_op("glip_export::text_norm", mutates_args=(), device_types="cuda")
def text_norm(
    x: torch.Tensor,
    added: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    epsilon: float,
    added_limits: list[float],
    limits: list[float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """x float32 (B, T, C), added (B, T, C) -> clamp(LayerNorm(x + clamp(added))) in float32, and in added's type.

    added: float32, for which the second is empty, or float16; weight, bias: float32 (C,). May be captured in a CUDA
    graph after a first call. Raises ValueError for other types or sizes.
    """
    dtype = _checked(added)
    fits = x.shape == added.shape and weight.shape == bias.shape == x.shape[-1:]
    if not fits or {x.dtype, weight.dtype, bias.dtype} != {torch.float32}:
        words = f"{x.dtype} {tuple(x.shape)} and {tuple(added.shape)} with {weight.dtype} {tuple(weight.shape)}"
        raise ValueError(f"the text's norm does not take {words}")
    given = [tensor.contiguous() for tensor in (x, added, weight, bias)]
    out, narrow = _normed(x, added)
    channels = x.shape[-1]
    pointers = [in_stream_order(tensor) for tensor in (*given, out, *([narrow] if narrow.numel() else []))]
    limited = (added_limits[0], added_limits[1]), (limits[0], limits[1])
    put_on_stream(text_norm_launches(dtype, x.numel() // channels, channels, epsilon, *limited, *pointers), x)
    return out, narrow


@text_norm.register_fake
def _(
    x: torch.Tensor,
    added: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    epsilon: float,
    added_limits: list[float],
    limits: list[float],
) -> tuple[torch.Tensor, torch.Tensor]:
    return _normed(x, added)


@torch.library.custom_op("glip_export::text_gelu", mutates_args=(), device_types="cuda")
def text_gelu(x: torch.Tensor, limits: list[float]) -> torch.Tensor:
    """clamp(GELU(clamp(x))), the exact GELU; float32 or float16. May be captured in a CUDA graph after a first call."""
    dtype, x = _checked(x), x.contiguous()
    out = torch.empty_like(x)
    pointers = in_stream_order(x), in_stream_order(out)
    put_on_stream(text_gelu_launches(dtype, x.numel(), (limits[0], limits[1]), *pointers), x)
    return out


@text_gelu.register_fake
def _(x: torch.Tensor, limits: list[float]) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def text_layer(
    heads: int,
    scale: float,
    epsilon: Sequence[float],
    limits: Sequence[float],
    x: torch.Tensor,
    mask: torch.Tensor,
    *parameters: torch.Tensor,
) -> torch.Tensor:
    """A whole layer of BERT: x float32 (B, T, C), mask float32 (B or 1, 1, 1, T) -> float32 (B, T, C), in nine calls.

    parameters: those of `graphs.text_layer_node.parameters_of`, in its order; the products are in the type of their
    weights. epsilon: of the two norms. limits: what scores are clamped to, then what the MLP's values and the result.
    """
    weights, norms = parameters[:8], parameters[8:]
    dtype, no_limits, (low, high) = weights[0].dtype, [-torch.inf, torch.inf], limits[2:]
    ops = torch.ops.glip_export
    qkv = F.linear(x.to(dtype), weights[0], weights[1])
    read = ops.text_attention.default(qkv, mask.flatten(1), heads, scale, list(limits[:2]))
    projected = F.linear(read, weights[2], weights[3])
    wide, narrow = ops.text_norm.default(x, projected, norms[0], norms[1], epsilon[0], no_limits, no_limits)
    hidden = ops.text_gelu.default(F.linear(narrow if narrow.numel() else wide, weights[4], weights[5]), [low, high])
    last = F.linear(hidden, weights[6], weights[7])
    return ops.text_norm.default(wide, last, norms[2], norms[3], epsilon[1], [low, high], [low, high])[0]


def _normed(x: torch.Tensor, added: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (0,) if added.dtype == torch.float32 else added.shape
    return torch.empty_like(x, memory_format=torch.contiguous_format), added.new_empty(shape)


def _checked(tensor: torch.Tensor) -> str:
    if tensor.dtype not in NUMPY_DTYPES:
        raise ValueError(f"a layer of the text takes float32 or float16, not {tensor.dtype}")
    return NUMPY_DTYPES[tensor.dtype]
