"""A whole DyConv block in PyTorch's own operations, of the arguments of our operator: what its kernels must equal."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from glip_export.model.dyconv import h_sigmoid, reread
from glip_export.model.graph_ops import modulated_deform_conv
from glip_export.runtime.torch_cuda.dyconv import checked_sizes, dyconv


def use_plain_dyconv() -> None:
    """From now on in this process the operator is `plain_dyconv` for tensors on the CPU."""
    dyconv.register_kernel("cpu", plain_dyconv)


def plain_dyconv(
    x: torch.Tensor, sides: list[int], parameters: list[torch.Tensor], groups: int, epsilon: list[float]
) -> torch.Tensor:
    """`glip_export.runtime.torch_cuda.dyconv.dyconv`, on any device: in float64, rounded to x's type last."""
    levels = checked_sizes(x, sides, parameters, groups, epsilon).levels
    parts = torch.split(x.double(), [height * width for height, width in levels], dim=1)
    maps = [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, levels, strict=True)]
    made = _maps(maps, [parameter.double() for parameter in parameters], groups, epsilon)
    return torch.cat([level.flatten(2).transpose(1, 2) for level in made], dim=1).to(x.dtype)


def _maps(maps: list[torch.Tensor], given: list[torch.Tensor], groups: int, epsilon: list[float]) -> list[torch.Tensor]:
    """Each level's, (B, C, H, W)."""
    offset_weight, offset_bias, *given = given
    convolutions, (attention, attention_bias, *lines) = [given[i : i + 4] for i in (0, 4, 8)], given[12:]

    def term(number: int, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weight, bias, norm_weight, norm_bias = convolutions[number]
        stride = 2 if number == 2 else 1
        y = modulated_deform_conv(x, offset, mask, convolution_weight(weight), bias, stride)
        return F.group_norm(y, groups, norm_weight, norm_bias, epsilon[number])

    made = []
    for level, x in enumerate(maps):
        offset_mask = F.conv2d(x, convolution_weight(offset_weight), offset_bias, padding=1)
        offset, mask = offset_mask[:, :18], offset_mask[:, 18:].sigmoid()
        terms = [term(1, x, offset, mask)]
        if level > 0:
            terms.append(term(2, maps[level - 1], offset, mask))
        if level + 1 < len(maps):
            smaller = maps[level + 1]
            small = term(0, smaller, reread(offset, smaller), reread(mask, smaller))
            terms.append(F.interpolate(small, size=x.shape[2:], mode="bilinear", align_corners=True))
        weights = [h_sigmoid(torch.relu(y.mean((2, 3)) @ attention + attention_bias)) for y in terms]  # (B,) each
        mean = sum(weight[:, None, None, None] * y for weight, y in zip(weights, terms, strict=True)) / len(terms)
        made.append(dynamic_relu(mean, lines))
    return made


def convolution_weight(tap_major: torch.Tensor) -> torch.Tensor:
    """(O, 9 * C) -> (O, C, 3, 3)."""
    return tap_major.view(len(tap_major), 3, 3, -1).permute(0, 3, 1, 2)


def dynamic_relu(x: torch.Tensor, lines: list[torch.Tensor]) -> torch.Tensor:
    """DyReLU; lines: weight and bias of its two layers."""
    first_weight, first_bias, last_weight, last_bias = lines
    hidden = torch.relu(F.linear(x.mean((2, 3)), first_weight, first_bias))
    slopes = h_sigmoid(F.linear(hidden, last_weight, last_bias)) - 0.5
    a1, b1, a2, b2 = slopes[:, :, None, None].chunk(4, dim=1)
    return torch.maximum(x * (a1 * 2 + 1) + b1, x * (a2 * 2) + b2)
