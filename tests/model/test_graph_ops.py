"""The functions with an ONNX node of their own, each against a slow, direct form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from glip_export.model.dyconv import reread
from glip_export.model.graph_ops import class_maximum, class_wise_nms, modulated_deform_conv, top_k


def direct_deform_conv(
    x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int
) -> torch.Tensor:
    """The definition, one sample at a time, in float64."""
    x, offset, mask, weight = x.double(), offset.double(), mask.double(), weight.double()
    batch, channels, height, width = x.shape
    out_height, out_width = offset.shape[2:]
    out = bias.double().view(1, -1, 1, 1).repeat(batch, 1, out_height, out_width)

    def pixel(b: int, row: int, column: int) -> torch.Tensor:
        inside = 0 <= row < height and 0 <= column < width
        return x[b, :, row, column] if inside else torch.zeros(channels, dtype=torch.float64)

    for b in range(batch):
        for i in range(out_height):
            for j in range(out_width):
                for tap in range(9):
                    y = i * stride - 1 + tap // 3 + offset[b, 2 * tap, i, j].item()
                    z = j * stride - 1 + tap % 3 + offset[b, 2 * tap + 1, i, j].item()
                    if not (-1 < y < height and -1 < z < width):
                        continue
                    top, left = math.floor(y), math.floor(z)
                    dy, dz = y - top, z - left
                    sample = (
                        pixel(b, top, left) * (1 - dy) * (1 - dz)
                        + pixel(b, top, left + 1) * (1 - dy) * dz
                        + pixel(b, top + 1, left) * dy * (1 - dz)
                        + pixel(b, top + 1, left + 1) * dy * dz
                    )
                    out[b, :, i, j] += weight[:, :, tap // 3, tap % 3] @ (sample * mask[b, tap, i, j])
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("spread", [0.0, 0.7, 5.0, 1e6])
def test_deform_conv(stride: int, spread: float) -> None:
    torch.manual_seed(3)
    x = torch.randn(2, 4, 7, 9)
    out_height, out_width = (7 + stride - 1) // stride, (9 + stride - 1) // stride
    offset = torch.randn(2, 18, out_height, out_width) * spread
    offset[:, :, 0, 0] = 1.0  # whole steps, exactly on pixels and on the border
    offset[:, :, 0, 1] = -1.0
    mask, weight, bias = torch.rand(2, 9, out_height, out_width), torch.randn(5, 4, 3, 3), torch.randn(5)
    expected = direct_deform_conv(x, offset, mask, weight, bias, stride)
    np.testing.assert_allclose(
        modulated_deform_conv(x, offset, mask, weight, bias, stride).numpy(), expected.numpy(), atol=2e-5
    )


def test_deform_conv_without_offsets_is_a_convolution() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 3, 6, 5), torch.randn(2, 3, 3, 3), torch.randn(2)
    plain = torch.nn.functional.conv2d(x, weight, bias, padding=1)
    deformed = modulated_deform_conv(x, torch.zeros(1, 18, 6, 5), torch.ones(1, 9, 6, 5), weight, bias, 1)
    np.testing.assert_allclose(deformed.numpy(), plain.numpy(), atol=1e-5)


def test_deform_conv_is_differentiable() -> None:
    torch.manual_seed(0)
    arguments = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((1, 2, 4, 3), (1, 18, 4, 3), (1, 9, 4, 3), (2, 2, 3, 3), (2,))
    ]
    assert torch.autograd.gradcheck(lambda *tensors: modulated_deform_conv(*tensors, 1), arguments)


def test_reread_is_memory_order_not_a_crop() -> None:
    values = torch.arange(2 * 4 * 6 * 8, dtype=torch.float32).view(2, 4, 6, 8)
    small = reread(values, torch.zeros(2, 1, 3, 4))
    assert small.shape == (2, 4, 3, 4)
    flat = values.numpy().reshape(2, -1)
    np.testing.assert_array_equal(small.numpy(), flat[:, : 4 * 3 * 4].reshape(2, 4, 3, 4))


def test_nms_equals_the_original(oracle_small: Path) -> None:
    data = {name: torch.from_numpy(array) for name, array in np.load(oracle_small / "ml_nms.npz").items()}
    boxes, scores, labels = data["boxes"], data["scores"], data["labels"]
    keep = class_wise_nms(boxes[None], scores[None], labels[None], int(labels.max()) + 1, 0.6)[0]
    np.testing.assert_array_equal(keep.nonzero().squeeze(1).numpy(), data["keep"].numpy())


def test_nms_leaves_out_empty_candidates_and_takes_the_first_of_equals() -> None:
    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9], [50, 50, 60, 60]]])
    scores = torch.tensor([[0.5, 0.5, 0.5, -1.0]])
    labels = torch.tensor([[0, 0, 1, 0]])
    assert class_wise_nms(boxes, scores, labels, 2, 0.6).tolist() == [[True, False, True, False]]


def test_top_k_takes_the_smaller_index_first() -> None:
    values, indices = top_k(torch.tensor([[1.0, 3, 3, 0, 3]]), 3)
    assert values.tolist() == [[3, 3, 3]]
    assert indices.tolist() == [[1, 2, 4]]


def test_class_maximum_is_zero_without_tokens() -> None:
    probabilities = torch.tensor([[[0.1, 0.9, 0.4]]])
    class_map = torch.tensor([[[1.0, 0, 0], [0, 0, 1], [1, 0, 1]]])
    np.testing.assert_allclose(class_maximum(probabilities, class_map).numpy(), [[[0.4, 0.0, 0.9]]])
