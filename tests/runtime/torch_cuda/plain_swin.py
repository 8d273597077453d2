"""A Swin block's two kernels in PyTorch's own operations, of the arguments of our operators: what they must equal."""

from __future__ import annotations

from typing import Any

import torch
from plugins.drawn_windows import attend_to_windows
from torch.nn import functional as F

from glip_export.runtime.torch_cuda.norms import add_norm, check_sum
from glip_export.runtime.torch_cuda.windows import checked_windows, window_attention


def use_plain_swin() -> None:
    """From now on in this process the operators are the functions below for tensors on the CPU."""
    add_norm.register_kernel("cpu", plain_add_norm)
    window_attention.register_kernel("cpu", plain_window_attention)


def plain_add_norm(x: torch.Tensor, *given: Any) -> list[torch.Tensor]:
    """`glip_export.runtime.torch_cuda.norms.add_norm`, on any device."""
    added, bias, norm_weight, norm_bias, epsilon, dtype = given
    check_sum(x, added, bias, norm_weight, norm_bias, dtype)
    total = x.float() if added is None else x.float() + (added.float() + bias)
    made = [] if added is None else [total]
    if norm_weight is not None:
        made.append(F.layer_norm(total, total.shape[-1:], norm_weight, norm_bias, epsilon).to(dtype))
    return made


def plain_window_attention(
    qkv: torch.Tensor, bias: torch.Tensor, relative: torch.Tensor, window: int, shift: int, scale: float
) -> torch.Tensor:
    """`glip_export.runtime.torch_cuda.windows.window_attention`, on any device: in float32, rounded last."""
    checked_windows(qkv, bias, relative, window, shift)
    spread = spread_out(relative.float(), window**2)
    return attend_to_windows(qkv.float(), bias.float(), spread, window, shift, scale).to(qkv.dtype)


def spread_out(relative: torch.Tensor, count: int) -> torch.Tensor:
    """`graphs.swin_node.arranged` the other way round: (heads, count, count)."""
    heads, strips = relative.shape[:2]
    lane, place = torch.arange(32)[:, None], torch.arange(8)
    query = lane // 4 + place // 2 % 2 * 8
    key = lane % 4 * 2 + place % 2 + place // 4 * 8
    squares = torch.empty(heads, strips, strips, 16, 16, dtype=relative.dtype)
    squares[..., query, key] = relative
    return squares.transpose(2, 3).reshape(heads, 16 * strips, 16 * strips)[:, :count, :count]
