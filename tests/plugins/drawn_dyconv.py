"""DyConv blocks and features, drawn; what our kernels take of them."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from glip_export.model.dyconv import DyConv

LEVELS = ((20, 30), (10, 15), (5, 8), (3, 4), (2, 2))
# Of the largest value. In float32 an offset is a sum of up to 2304 products, one after another, and moves a sample.
LIMITS = {"float32": 2e-5, "float16": 2e-3}


def drawn_block(channels: int, groups: int, *, offset: float = 1.2) -> DyConv:
    """A block whose every parameter counts; offset: the offsets' deviation where features have deviation 1."""
    torch.manual_seed(0)
    config: Any = SimpleNamespace(channels=channels, group_norm_groups=groups)
    block = DyConv(config).eval().requires_grad_(False)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    torch.nn.init.normal_(block.offset.weight, 0, offset / (9 * channels) ** 0.5)
    for index, term in enumerate(block.DyConv):
        term.bn.weight += 1
        term.conv.bias += 3 * index  # so that a mean is not near zero
        term.bn.eps = 1e-5 * 10**index
    return block.half().float()  # the same numbers in both types


def parameters_of(block: DyConv, dtype: str) -> list[np.ndarray]:
    """As `dyconv_launches` takes them."""

    def by_taps(weight: torch.Tensor) -> torch.Tensor:
        return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)

    tensors = [by_taps(block.offset.weight), block.offset.bias]
    for term in block.DyConv:
        tensors += [by_taps(term.conv.weight), term.conv.bias, term.bn.weight, term.bn.bias]
    tensors += [block.AttnConv[1].weight.flatten(), block.AttnConv[1].bias]
    for layer in (block.relu.fc[0], block.relu.fc[2]):
        tensors += [layer.weight, layer.bias]
    return [tensor.numpy().astype(dtype) for tensor in tensors]


def epsilon_of(block: DyConv) -> list[float]:
    """Of DyConv 0, 1 and 2's norm."""
    return [term.bn.eps for term in block.DyConv]


def pyramid(height: int, width: int) -> list[tuple[int, int]]:
    """Five levels, the largest of this size."""
    levels = [(height, width)]
    for _ in range(4):
        levels.append((-(-levels[-1][0] // 2), -(-levels[-1][1] // 2)))
    return levels


def drawn_features(channels: int, levels: Any, batch: int) -> list[torch.Tensor]:
    """Halves, of another size on each level."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(batch, channels, *size, generator=generator) * (place + 1)).half().float()
        for place, size in enumerate(levels)
    ]


def joined(features: Any) -> np.ndarray:
    """(B, N, C)."""
    return torch.cat([feature.flatten(2).transpose(1, 2) for feature in features], 1).numpy()


def expected_of(block: DyConv, features: list[torch.Tensor]) -> np.ndarray:
    """(B, N, C), of the model's own module in float64."""
    exact, doubles = copy.deepcopy(block).double(), tuple(feature.double() for feature in features)
    with torch.inference_mode():
        return joined(exact(doubles, None, None)[0])  # type: ignore[arg-type]
