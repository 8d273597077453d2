"""The CPU kernels' edge cases, with what the model's own modules say of them, for kernel_cases.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from case_file import CaseFile

from glip_export.config import HeadConfig
from glip_export.model.bi_attention import LIMIT, MASKED, NUM_HEADS
from glip_export.model.dyconv import DyConv
from glip_export.model.swin_block import Mlp

CHANNELS = 64  # a multiple of every processor's panel
FP32, BF16 = 1e-4, 0.15  # small maps show every rounding; a value read or written wrongly is off by far more
TILE = 96  # rows that the kernels take at once: kTile in product.hpp


def write_kernel_cases(path: Path) -> None:
    """All cases: around a tile's edges, maps of one position, offsets far outside, one token and many."""
    torch.manual_seed(0)
    with CaseFile(path) as file, torch.inference_mode():
        for rows, width, hidden in (
            (1, 1, 1),
            (TILE - 1, 17, 33),
            (TILE, 16, 64),
            (TILE + 1, 65, 100),
            (2 * TILE, 64, 7),
        ):
            _mlp(file, rows, width, hidden)
        for sizes, offsets in (
            (((1, 1),), 0.0),
            (((1, 1), (1, 1)), 300.0),
            (((8, 12), (4, 6), (2, 3), (1, 2), (1, 1)), 3.0),
            (((97, 1), (49, 1)), 20.0),
            (((1, 97), (1, 49)), float("nan")),
        ):
            _dyconv(file, sizes, offsets)
        for positions, tokens in ((1, 1), (TILE - 1, 3), (TILE, 16), (TILE + 1, 17), (2 * TILE + 5, 40)):
            _bi_attention(file, positions, tokens)


def _mlp(file: CaseFile, rows: int, width: int, hidden: int) -> None:
    mlp, x = Mlp(width, hidden), torch.randn(rows, width)
    layers = [parameter for layer in (mlp.fc1, mlp.fc2) for parameter in (layer.weight, layer.bias)]
    _write(file, "mlp", [rows, width, hidden, width], [], [x, *layers], [mlp(x)])


def _dyconv(file: CaseFile, sizes: Sequence[tuple[int, int]], offsets: float) -> None:
    block = DyConv(HeadConfig(channels=CHANNELS)).eval()
    for parameter in block.parameters():
        parameter.normal_(std=0.05) if parameter.dim() > 1 else parameter.normal_(std=0.5)
    block.offset.weight[:18] = 0  # whole positions: a sample on an edge is there on every processor, or on none
    block.offset.bias[:18] = torch.randn(18).mul(offsets).round().add(0.25)
    if np.isnan(offsets):  # what no sample can be taken of counts 0, as if it were far outside
        block.offset.bias[:18] = -1e9
    features = [torch.randn(2, CHANNELS, *size) for size in sizes]
    expected, _ = block(tuple(features), torch.empty(0), torch.empty(0))
    if np.isnan(offsets):
        block.offset.bias[:18] = torch.nan
    norms = [layer.bn for layer in block.DyConv]
    parameters = [
        parameter
        for layer in block.DyConv
        for parameter in (layer.conv.weight, layer.conv.bias, layer.bn.weight, layer.bn.bias)
    ]
    layers = (block.AttnConv[1], block.relu.fc[0], block.relu.fc[2], block.offset)
    parameters += [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    numbers = [2, CHANNELS, norms[0].num_groups, len(sizes), 0, 0, *(side for size in sizes for side in size)]
    _write(file, "dyconv", numbers, [norm.eps for norm in norms], [*features, *parameters], expected)


def _bi_attention(file: CaseFile, positions: int, tokens: int) -> None:
    image, keys, values = (torch.randn(2, n, CHANNELS) for n in (positions, NUM_HEADS * tokens, NUM_HEADS * tokens))
    bias, mask = torch.randn(2, NUM_HEADS * tokens, 1), torch.ones(2, 1, 1, tokens)
    keys /= 8  # scores of a few, which bf16 still tells apart
    mask[1, ..., tokens // 2 + 1 :] = MASKED
    scores = (keys.double() @ image.double().transpose(1, 2) + bias).clamp(-LIMIT, LIMIT)
    to_text = scores.softmax(-1) @ image.double()
    by_head = scores.unflatten(1, (NUM_HEADS, -1)) + mask.transpose(2, 3)
    to_image = by_head.softmax(2).flatten(1, 2).transpose(1, 2) @ values.double()
    sizes = [2, positions, CHANNELS, NUM_HEADS, tokens]
    _write(file, "bi_attention", sizes, [-LIMIT, LIMIT], [image, keys, bias, values, mask], [to_text, to_image])


def _write(
    file: CaseFile,
    kind: str,
    sizes: Sequence[int],
    numbers: Sequence[float],
    inputs: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
) -> None:
    file.word(kind)
    file.integers(*sizes)
    file.values(np.array([FP32, BF16, *numbers], "<f4"))
    file.floats([tensor.numpy() for tensor in inputs])
    file.floats([tensor.numpy() for tensor in expected])
