"""The kernel of Swin's patches against the model's own module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_checks import assert_near

from glip_export.model.swin import PatchEmbed
from glip_export.runtime.native import Kernels


@pytest.mark.parametrize(("batch", "height", "width", "channels"), [(2, 8, 12, 96), (1, 32, 204, 32), (1, 4, 4, 128)])
def test_patch_embed(kernels: Kernels, batch: int, height: int, width: int, channels: int) -> None:
    torch.manual_seed(width)
    module = PatchEmbed(channels).eval()
    with torch.no_grad():
        module.norm.weight.add_(torch.randn(channels) / 4)
        module.norm.bias.normal_()
    images = torch.randn(batch, 3, height, width)
    with torch.inference_mode():
        expected = module(images)
        weight, bias = module.proj.weight.flatten(1).numpy(), module.proj.bias.numpy()
        norm = module.norm.weight.numpy(), module.norm.bias.numpy()
    parameters = [*kernels.pack_layer((weight, bias), "fp32"), *norm]
    for threads in (1, 3):
        out = np.full(expected.shape, np.nan, np.float32)
        kernels.patch_embed(images.numpy(), out, parameters, 4, module.norm.eps, threads)
        assert_near(out, expected, 2e-5)


def test_patch_embed_refuses_what_does_not_fit(kernels: Kernels) -> None:
    packed = kernels.pack_layer((np.ones((32, 48), np.float32), np.zeros(32, np.float32)), "fp32")
    parameters = [*packed, np.ones(32, np.float32), np.zeros(32, np.float32)]
    images, out = np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 2, 2, 32), np.float32)
    with pytest.raises(ValueError, match="out"):
        kernels.patch_embed(images, out[:, :1], parameters, 4, 1e-5, 1)
    with pytest.raises(ValueError, match="parameters"):
        kernels.patch_embed(images, out, parameters[:3], 4, 1e-5, 1)
