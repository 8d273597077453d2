"""The kernel of a Swin block against the model's own module, over random shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_checks import assert_near, precisions
from swin_blocks import block_of, parameters_of

from glip_export.model.swin_block import Block
from glip_export.runtime.native import Kernels


def run(kernels: Kernels, block: Block, x: np.ndarray, precision: str, threads: int = 2) -> np.ndarray:
    out = np.full_like(x, np.nan)
    kernels.swin_block(
        x,
        out,
        parameters_of(kernels, block, precision),
        block.attn.heads,
        block.window,
        block.shift,
        block.mlp.fc1.out_features,
        (block.norm1.eps, block.norm2.eps),
        precision,
        threads,
    )
    return out


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "heads", "window"),
    [(1, 7, 7, 32, 1, 7), (2, 9, 16, 96, 3, 7), (1, 15, 3, 64, 1, 8), (3, 1, 1, 64, 2, 7), (1, 13, 14, 32, 1, 12)],
)
def test_swin_block(
    kernels: Kernels, batch: int, height: int, width: int, channels: int, heads: int, window: int, shifted: bool
) -> None:
    block = block_of(channels, heads, window, shifted)
    x = torch.randn(batch, height, width, channels) + 0.5
    with torch.inference_mode():
        expected = block(x)
    for precision, tolerance in precisions(kernels):
        for threads in (1, 3):
            assert_near(run(kernels, block, x.numpy(), precision, threads), expected, tolerance)


def test_weights_that_were_int8_stay_the_same_numbers(kernels: Kernels) -> None:
    """A row that is quantized by its largest value comes out as it was: 127 times the scale is among them."""
    if not kernels.has_int8:
        pytest.skip("this CPU has no VNNI, or the environment hides it")
    rng = np.random.default_rng(0)
    whole = rng.integers(-127, 128, (70, 33)).astype(np.int8)
    whole[:, 0] = 127
    scale = rng.uniform(0.001, 3, 70).astype(np.float32)
    packed, _ = kernels.pack_layer((whole * scale[:, None], np.zeros(70, np.float32)), "int8")
    columns, depth = kernels.padded(70), 36
    numbers = packed[: columns * depth].reshape(columns // kernels.panel, depth // 4, kernels.panel, 4)
    numbers = numbers.transpose(0, 2, 1, 3).reshape(columns, depth)[:70, :33].astype(int) - 128
    np.testing.assert_array_equal(numbers, whole)
    np.testing.assert_allclose(packed[columns * depth :].view(np.float32)[:70], scale, rtol=1e-6)


def test_scores_far_apart(kernels: Kernels) -> None:
    """Shares of the softmax that a float can hardly hold are left out."""
    block = block_of(32, 1, 7, shifted=True)
    with torch.no_grad():
        block.attn.relative_position_bias_table.mul_(100)
    x = torch.randn(1, 10, 11, 32)
    with torch.inference_mode():
        expected = block(x)
    assert_near(run(kernels, block, x.numpy(), "fp32"), expected, 5e-5)


def test_gelu_over_its_whole_range(kernels: Kernels) -> None:
    """Through a block whose attention gives nothing, and whose MLP has its argument from a bias."""
    block = block_of(32, 1, 7, shifted=False)
    arguments = torch.linspace(-40, 40, 128)
    with torch.no_grad():
        block.attn.proj.weight.zero_(), block.attn.proj.bias.zero_()
        block.mlp.fc1.weight.zero_(), block.mlp.fc1.bias.copy_(arguments)
        block.mlp.fc2.bias.zero_()
    for first in range(0, 128, 32):
        with torch.no_grad():
            block.mlp.fc2.weight.zero_()
            block.mlp.fc2.weight[torch.arange(32), torch.arange(first, first + 32)] = 1
        out = run(kernels, block, np.zeros((1, 7, 7, 32), np.float32), "fp32")
        expected = torch.nn.functional.gelu(arguments[first : first + 32].double()).numpy()
        assert np.abs(out - expected).max() < 3e-6
