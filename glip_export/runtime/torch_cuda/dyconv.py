"""A whole DyConv block as one operator of PyTorch, in our CUDA kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glip_export.graphs.dyconv_node import CHANNEL_UNIT


@torch.library.custom_op("glip_export::dyconv", mutates_args=(), device_types="cuda")
def dyconv(
    features: list[torch.Tensor], parameters: list[torch.Tensor], groups: int, epsilon: list[float]
) -> list[torch.Tensor]:
    """The block `glip_export.model.dyconv.DyConv` without its text.

    features: of each level (B, C, Hl, Wl), the largest first, C a multiple of 32; parameters: the 20 that
    `graphs.dyconv_node.parameters_of` gives, in its order; groups, epsilon: of the three GroupNorms, one epsilon each.
    All float32 or all float16. Gives each level's map (B, C, Hl, Wl), a view of channels-last memory, in which order
    features are best given too. May be captured in a CUDA graph after a first call. Raises ValueError for another type
    or number of tensors, or other shapes.
    """
    check_arguments(features, parameters, groups, epsilon)
    maps = [feature.permute(0, 2, 3, 1).contiguous() for feature in features]  # (B, Hl, Wl, C)
    outputs = [torch.empty_like(level) for level in maps]
    _launch_dyconv(maps, parameters, groups, epsilon, outputs)
    return [output.permute(0, 3, 1, 2) for output in outputs]


@dyconv.register_fake
def _empty_maps(
    features: list[torch.Tensor], parameters: list[torch.Tensor], groups: int, epsilon: list[float]
) -> list[torch.Tensor]:
    sizes = [(batch, height, width, channels) for batch, channels, height, width in (x.shape for x in features)]
    return [feature.new_empty(size).permute(0, 3, 1, 2) for feature, size in zip(features, sizes, strict=True)]


def _launch_dyconv(
    maps: Sequence[torch.Tensor],
    parameters: Sequence[torch.Tensor],
    groups: int,
    epsilon: Sequence[float],
    outputs: Sequence[torch.Tensor],
) -> None:
    """Puts the block on PyTorch's current stream: maps to outputs, (B, Hl, Wl, C) contiguous each."""
    raise NotImplementedError("torch:cuda has no kernels for a whole DyConv block yet")


def check_arguments(
    features: Sequence[torch.Tensor], parameters: Sequence[torch.Tensor], groups: int, epsilon: Sequence[float]
) -> None:
    """Raises ValueError for what `dyconv` does not take."""
    if not features or any(feature.ndim != 4 for feature in features):
        raise ValueError("the features of a DyConv block are of four axes each")
    first = features[0]
    if first.dtype not in (torch.float32, torch.float16):
        raise ValueError(f"a DyConv block takes float32 or float16, not {first.dtype}")
    for tensor in (*features, *parameters):
        if (tensor.dtype, tensor.device) != (first.dtype, first.device):
            raise ValueError(f"{tensor.dtype} on {tensor.device} beside {first.dtype} on {first.device}")
    if any(feature.shape[:2] != first.shape[:2] for feature in features):
        raise ValueError(f"the levels differ in pictures or channels: {[tuple(x.shape) for x in features]}")
    positions = [feature.shape[2] * feature.shape[3] for feature in features]
    if positions != sorted(positions, reverse=True):  # a level's offsets are read with the next one's size
        raise ValueError(f"a level is larger than the one before: {[tuple(x.shape) for x in features]}")
    channels = first.shape[1]
    if channels % CHANNEL_UNIT or groups < 1 or channels % groups or len(epsilon) != 3:
        raise ValueError(f"a DyConv block of {channels} channels in {groups} groups with {len(epsilon)} epsilons")
    given, wanted = [tuple(parameter.shape) for parameter in parameters], _parameter_shapes(channels)
    if given != wanted:
        raise ValueError(f"the parameters of a DyConv block are {wanted}, not {given}")


def _parameter_shapes(channels: int) -> list[tuple[int, ...]]:
    vector, hidden = (channels,), channels // 4
    convolution = [(channels, 9 * channels), vector, vector, vector]  # with its norm
    lines = [(hidden, channels), (hidden,), (4 * channels, hidden), (4 * channels,)]
    return [(27, 9 * channels), (27,), *convolution * 3, vector, (1,), *lines]
