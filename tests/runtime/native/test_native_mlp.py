"""The MLP kernel against the model's own module, over random shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_checks import assert_near, precisions

from glip_export.model.swin_block import Mlp
from glip_export.runtime.native import Kernels


@pytest.mark.parametrize(
    ("rows", "width", "hidden"), [(1, 16, 64), (95, 96, 384), (96, 32, 128), (97, 64, 256), (500, 48, 100)]
)
def test_mlp(kernels: Kernels, rows: int, width: int, hidden: int) -> None:
    torch.manual_seed(rows)
    mlp = Mlp(width, hidden)
    x = torch.randn(rows, width) + 0.5
    with torch.inference_mode():
        expected = mlp(x)
    for bf16, tolerance in precisions(kernels):
        first, last = (
            (kernels.pack_linear(layer.weight.detach().numpy(), bf16), kernels.pad_bias(layer.bias.detach().numpy()))
            for layer in (mlp.fc1, mlp.fc2)
        )
        for threads in (1, 3):
            out = np.full((rows, width), np.nan, np.float32)
            kernels.mlp(x.numpy(), first, last, out, bf16, threads)
            assert_near(out, expected, tolerance)


def test_gelu_over_its_whole_range(kernels: Kernels) -> None:
    x = np.linspace(-40, 40, 100_001, dtype=np.float32)[:, None]
    layer = kernels.pack_linear(np.ones((1, 1), np.float32), False), kernels.pad_bias(np.zeros(1, np.float32))
    out = np.empty_like(x)
    kernels.mlp(x, layer, layer, out, False, 2)
    expected = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    assert np.abs(out - expected).max() < 3e-6


def test_in_bf16_the_mean_of_alike_rows_is_exact(kernels: Kernels) -> None:
    """Rows that are all the same lose nothing to the rounding of the weights, only to their own."""
    if not kernels.has_bf16:
        pytest.skip("this CPU has no bf16")
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((128, 64), dtype=np.float32)
    row = torch.from_numpy(rng.standard_normal(64, dtype=np.float32)).bfloat16().float().numpy()
    x = np.repeat(row[None], 200, axis=0)
    one = np.eye(128, dtype=np.float32)
    first, last = (
        (kernels.pack_linear(matrix, True), kernels.pad_bias(np.zeros(128, np.float32))) for matrix in (weight, one)
    )
    out = np.empty((200, 128), np.float32)
    kernels.mlp(x, first, last, out, True, 2)
    expected = torch.nn.functional.gelu(torch.from_numpy(weight @ row)).numpy()
    np.testing.assert_allclose(out[0], expected, atol=2e-3 * np.abs(expected).max() + 2**-8 * np.abs(expected).max())
