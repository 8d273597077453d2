"""What the operators' calls name where PyTorch has no function of the same arguments; plain values only, for graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from glip_export.addresses import in_one_storage


def alias(x: torch.Tensor) -> torch.Tensor:
    """The same values in the same memory, as another tensor."""
    return x.view_as(x)


def truncated_quotient(a: Any, b: Any) -> torch.Tensor:
    """a / b of integers, towards zero."""
    return torch.div(a, b, rounding_mode="trunc")


def maximum(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """The largest of each place."""
    for other in others:
        first = torch.maximum(first, other)
    return first


def minimum(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """The smallest of each place."""
    for other in others:
        first = torch.minimum(first, other)
    return first


def gelu(x: torch.Tensor, approximate: str) -> torch.Tensor:
    """GELU."""
    return F.gelu(x, approximate=approximate)


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x in another type."""
    return x.to(dtype)


def concat(axis: int, *values: torch.Tensor) -> torch.Tensor:
    """The values behind one another."""
    return torch.cat(values, dim=axis)


def are_adjacent(values: Sequence[torch.Tensor], axis: int) -> bool:
    """Whether the values lie behind one another along the axis in one memory, as parts of a split do."""
    first, axis = values[0], axis % values[0].ndim
    end = first.storage_offset()
    for value in values:
        if not in_one_storage(value, first) or value.storage_offset() != end:
            return False
        sizes = zip(value.shape, first.shape, strict=True)
        if value.stride() != first.stride() or any(one != other for at, (one, other) in enumerate(sizes) if at != axis):
            return False
        end += value.shape[axis] * value.stride(axis)
    return True


def extended(first: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """A view of what `first` begins, `size` long along the axis: adjacent values behind one another."""
    shape = list(first.shape)
    shape[axis] = size
    return first.as_strided(shape, first.stride())


def index_with(x: torch.Tensor, index: tuple[slice, ...], backwards: list[int]) -> torch.Tensor:
    """x[index], a view; then some axes the other way round."""
    return x[index].flip(backwards) if backwards else x[index]


def take(x: torch.Tensor, axis: int, index: torch.Tensor) -> torch.Tensor:
    """ONNX's Gather: the index's shape in the place of the axis; an index below zero counts from the end."""
    index = torch.where(index < 0, index + x.shape[axis], index)
    shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]
    return torch.index_select(x, axis, index.reshape(-1)).reshape(shape)


def positions_of(features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Maps (B, C, H, W) as (B, H * W, C)."""
    return [feature.flatten(2).transpose(1, 2) for feature in features]


def dyconv(
    levels: int, groups: int, epsilon: list[float], adjacent: bool, *tensors: torch.Tensor
) -> list[torch.Tensor]:
    """A DyConv block; tensors: the levels' features (B, C, H, W), then the parameters. Gives views of one tensor.

    adjacent: whether the levels' `positions_of` are.
    """
    features, parameters = tensors[:levels], list(tensors[levels:])
    positions = positions_of(features)
    count = sum(level.shape[1] for level in positions)
    x = extended(positions[0], 1, count) if adjacent else torch.cat(positions, dim=1)  # (B, N, C)
    sides = [side for feature in features for side in feature.shape[2:]]
    made = torch.ops.glip_export.dyconv.default(x, sides, parameters, groups, epsilon)
    parts = torch.split(made, [feature.shape[2] * feature.shape[3] for feature in features], dim=1)
    return [
        part.unflatten(1, feature.shape[2:]).permute(0, 3, 1, 2) for part, feature in zip(parts, features, strict=True)
    ]


def swin_block(
    window: int, shift: int, scale: float, epsilon: list[float], x: torch.Tensor, *parameters: torch.Tensor
) -> torch.Tensor:
    """A Swin block, in nine kernels: x float32 (B, H, W, C) -> float32 (B, H, W, C).

    parameters: those of `graphs.swin_node.parameters_of`, in its order; four weights, the biases of qkv and fc1 and the
    relative biases are of the type that the products are made in, the rest float32. epsilon: of the two norms.
    """
    (norm1_weight, norm1_bias, qkv_weight, qkv_bias, relative, proj_weight, proj_bias, norm2_weight, norm2_bias,
     fc1_weight, fc1_bias, fc2_weight, fc2_bias) = parameters  # fmt: skip
    ops, dtype, rows = torch.ops.glip_export, qkv_weight.dtype, x.flatten(0, 2)
    (y,) = ops.add_norm.default(rows, None, None, norm1_weight, norm1_bias, epsilon[0], dtype)
    qkv = F.linear(y, qkv_weight, qkv_bias).unflatten(0, x.shape[:3])
    y = ops.window_attention.default(qkv, qkv_bias, relative, window, shift, scale).flatten(0, 2)
    y = F.linear(y, proj_weight)
    rows, y = ops.add_norm.default(rows, y, proj_bias, norm2_weight, norm2_bias, epsilon[1], dtype)
    y = F.linear(F.gelu(F.linear(y, fc1_weight, fc1_bias)), fc2_weight)
    (rows,) = ops.add_norm.default(rows, y, fc2_bias, None, None, 0.0, dtype)
    return rows.view(x.shape)


def text_to_image(
    heads: int,
    text: torch.Tensor,
    keys_weight: torch.Tensor,
    keys_bias: torch.Tensor,
    values_weight: torch.Tensor,
    values_bias: torch.Tensor,
    scores_weight: torch.Tensor,
    scores_bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """text (B, T, L) and a `TextSide.to_image` -> keys (B, h*T, C), bias (B, h*T, 1), values (B, h*T, C)."""
    batch = len(text)

    def by_head(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if batch == 1:
            return torch.baddbmm(bias, text.expand(heads, -1, -1), weight.transpose(1, 2)).view(1, -1, bias.shape[2])
        made = F.linear(text, weight.flatten(0, 1), bias.flatten())
        return made.unflatten(2, (heads, -1)).transpose(1, 2).flatten(1, 2)

    bias = torch.baddbmm(scores_bias, scores_weight.expand(batch, -1, -1), text.transpose(1, 2))  # (B, h, T)
    return by_head(keys_weight, keys_bias), bias.flatten(1).unsqueeze(2), by_head(values_weight, values_bias)


def text_from_image(heads: int, read: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """read (B, h*T, C) and a `TextSide.from_image` -> (B, T, L)."""
    return F.linear(read.unflatten(1, (heads, -1)).transpose(1, 2).flatten(2), weight, bias)


def candidates(
    threshold: float, k: int, anchors: list[float], strides: list[int], scales: list[float], *tensors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The candidates of the NMS; tensors: the levels' class scores, then their centerness, their deltas, the sizes."""
    levels = len(anchors)
    lists = [list(tensors[first : first + levels]) for first in (0, levels, 2 * levels)]
    operator = torch.ops.glip_export.candidates.default
    return operator(*lists, tensors[-1], threshold, k, anchors, strides, scales)


def full(shape: list[int], value: Any, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of one value."""
    return torch.full(shape, value, dtype=dtype)


def top_k(x: torch.Tensor, k: int, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest, falling, and their places; of equals the smaller place comes first, as ONNX says.

    `torch.topk` leaves the order of equals open, so it is given whole numbers of which no two are equal: a float32's
    bits, which order as the float does, above the place counted from the end. x: float32 or narrower, without NaN.
    """
    size = x.shape[axis]
    bits = (x.float() + 0.0).view(torch.int32)  # 0 added: -0 is 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    shape = [size if place == axis % x.ndim else 1 for place in range(x.ndim)]
    from_end = torch.arange(size - 1, -1, -1, device=x.device).reshape(shape)
    keys = torch.topk(ordered.long() * (1 << 32) + from_end, k, dim=axis).values
    places = size - 1 - (keys & 0xFFFFFFFF)
    return torch.gather(x, axis, places), places
