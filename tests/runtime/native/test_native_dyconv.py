"""The DyConv kernel against the model's own block, over random shapes and offsets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_checks import FP32, assert_near, precisions

from glip_export.config import HeadConfig
from glip_export.model.dyconv import DyConv
from glip_export.model.graph_ops import modulated_deform_conv
from glip_export.runtime.native import Kernels


def dyconv_parameters(kernels: Kernels, block: DyConv, precision: str) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    for layer in block.DyConv:
        packed = kernels.pack_deform_conv(layer.conv.weight.detach().numpy(), precision)
        arrays += [packed, *(p.detach().numpy() for p in (layer.conv.bias, layer.bn.weight, layer.bn.bias))]
    layers = (block.AttnConv[1], block.relu.fc[0], block.relu.fc[2])
    arrays += [p.detach().numpy() for layer in layers for p in (layer.weight, layer.bias)]
    weight, bias = (p.detach().numpy() for p in (block.offset.weight, block.offset.bias))
    return [*arrays, *kernels.pack_offset_conv(weight, bias)]


def run_dyconv(
    kernels: Kernels, block: DyConv, features: list[torch.Tensor], precision: str, threads: int, maps: tuple[bool, bool]
) -> list[np.ndarray]:
    """maps: whether features go in, and results come out, as a map a level and not as (B, N, C) of all levels."""
    sizes = [tuple(feature.shape[2:]) for feature in features]
    arrays = [feature.numpy() for feature in features] if maps[0] else [as_image(features).numpy()]
    out = [torch.full_like(feature, torch.nan) for feature in features]
    out = [array.numpy() for array in (out if maps[1] else [as_image(out)])]
    norms = [layer.bn for layer in block.DyConv]
    epsilon = tuple(norm.eps for norm in norms)
    parameters = dyconv_parameters(kernels, block, precision)
    kernels.dyconv(arrays, out, sizes, parameters, norms[0].num_groups, epsilon, precision, threads)
    return out


def as_image(features: list[torch.Tensor]) -> torch.Tensor:
    """Maps (B, C, H, W) of all levels as (B, N, C)."""
    return torch.cat([feature.flatten(2) for feature in features], dim=2).transpose(1, 2).contiguous()


def random_dyconv(channels: int, offsets: float, seed: int) -> DyConv:
    torch.manual_seed(seed)
    block = DyConv(HeadConfig(channels=channels)).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.05) if parameter.dim() > 1 else parameter.normal_(std=0.5)
        block.offset.bias[:18].normal_(std=offsets)
        block.offset.weight[:18] *= offsets
    return block


@pytest.mark.parametrize("offsets", [0.0, 1.0, 20.0, 300.0])
@pytest.mark.parametrize("sizes", [((13, 19), (7, 10), (4, 5)), ((8, 8), (4, 4), (2, 2), (1, 1), (1, 1))])
def test_dyconv(kernels: Kernels, offsets: float, sizes: tuple[tuple[int, int], ...]) -> None:
    channels = 2 * kernels.panel
    block = random_dyconv(channels, offsets, len(sizes))
    features = [torch.randn(2, channels, *size) for size in sizes]
    with torch.inference_mode():
        expected, _ = block(tuple(features), torch.empty(0), torch.empty(0))
        for precision, tolerance in precisions(kernels):
            for threads, maps in ((1, (True, True)), (3, (True, True)), (2, (False, True))):
                got = run_dyconv(kernels, block, features, precision, threads, maps)
                for out, want in zip(got, expected, strict=True):
                    # Offsets are rounded in proportion to their size; with the largest hardly a sample is inside, and
                    # GroupNorm divides by next to nothing. A level of few positions shows every rounding more.
                    far = 1 + offsets if want[0, 0].numel() > 16 else 5 + offsets
                    assert_near(out, want, tolerance * (far if precision == "fp32" else min(far, 5)))


def test_dyconv_gives_its_positions_in_one_array(kernels: Kernels) -> None:
    block = random_dyconv(kernels.panel, 2.0, 1)
    features = [torch.randn(2, kernels.panel, *size) for size in ((9, 14), (5, 7), (3, 4))]
    with torch.inference_mode():
        maps = run_dyconv(kernels, block, features, "fp32", 2, (True, True))
        for given in (True, False):
            (image,) = run_dyconv(kernels, block, features, "fp32", 2, (given, False))
            np.testing.assert_array_equal(image, as_image([torch.from_numpy(level) for level in maps]).numpy())


def test_a_deformable_convolution_alone(kernels: Kernels) -> None:
    """One level, GroupNorm, attention and DyReLU made the identity: what is left is the convolution."""
    channels = kernels.panel
    block = random_dyconv(channels, 3.0, 0)
    with torch.no_grad():
        for layer in block.DyConv:
            layer.bn.weight.fill_(1), layer.bn.bias.zero_()
        block.AttnConv[1].weight.zero_(), block.AttnConv[1].bias.fill_(3)
        for layer in (block.relu.fc[0], block.relu.fc[2]):
            layer.weight.zero_(), layer.bias.zero_()  # slopes 2 * 0.5 - 1 + 1 and 0, no offsets: max(x, 0)
    feature = torch.randn(1, channels, 30, 41)
    with torch.inference_mode():
        predicted = block.offset(feature)
        conv = block.DyConv[1].conv
        mask = predicted[:, 18:].sigmoid()
        expected = modulated_deform_conv(feature, predicted[:, :18], mask, conv.weight, conv.bias, 1)
        expected = block.DyConv[1].bn(expected).clamp(min=0)
        (out,) = run_dyconv(kernels, block, [feature], "fp32", 2, (True, True))
    assert_near(out, expected, 4 * FP32)  # offsets of three pixels, rounded


def test_weights_that_were_int8_are_packed_as_they_were(kernels: Kernels) -> None:
    """Weights of -127..127, the largest in every filter, times its scale: the same whole numbers lie in the pack."""
    if not kernels.has_int8:
        pytest.skip("these kernels have no int8")
    panel, channels = kernels.panel, 2 * kernels.panel
    rng = np.random.default_rng(0)
    numbers = rng.integers(-127, 128, (channels, channels, 3, 3))
    numbers[:, 5, 1, 2] = 127
    scales = rng.uniform(1e-4, 3e-2, channels).astype(np.float32)
    packed = kernels.pack_deform_conv(numbers.astype(np.float32) * scales[:, None, None, None], "int8")
    values = packed[: numbers.size].view(np.int8).reshape(9, channels // panel, channels // 4, panel, 4)
    by_tap = values.transpose(1, 3, 2, 4, 0).reshape(channels, channels, 3, 3)  # (out, in, 3, 3)
    np.testing.assert_array_equal(by_tap, numbers)
    np.testing.assert_allclose(packed[numbers.size :].view(np.float32)[:channels], scales, rtol=1e-6)


@pytest.mark.parametrize("precision", ["int16", "int8"])
def test_the_largest_whole_numbers_do_not_overflow(kernels: Kernels, precision: str) -> None:
    """Features and weights that are everywhere as large as they can be, with one sign: sums of 32 bits are full."""
    if not getattr(kernels, f"has_{precision}"):
        pytest.skip(f"these kernels have no {precision}")
    channels = 256
    block = random_dyconv(channels, 0.0, 0)
    feature = torch.full((1, channels, 6, 7), 3.0)
    with torch.inference_mode():
        for layer in block.DyConv:
            layer.conv.weight.fill_(-0.02)
        block.offset.weight.zero_(), block.offset.bias.zero_()
        (expected,), _ = block((feature,), torch.empty(0), torch.empty(0))
        (out,) = run_dyconv(kernels, block, [feature], precision, 1, (True, True))
    assert_near(out, expected, 1e-3)  # every number is exact: what is left is the rounding of scales
