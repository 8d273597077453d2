"""The CPU kernels' edge cases, with what the model's own modules say of them, for kernel_cases.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from case_file import CaseFile

from glip_export.config import BertConfig, HeadConfig, SwinConfig
from glip_export.model.bi_attention import LIMIT, MASKED, NUM_HEADS
from glip_export.model.dyconv import DyConv
from glip_export.model.swin import PatchEmbed
from glip_export.model.swin_block import Block
from glip_export.model.text_encoder import padding_mask
from glip_export.model.text_layer import BertEncoderLayer

CHANNELS = 64  # a multiple of every processor's panel
FP32, WHOLE = 1e-4, 0.15  # small maps show every rounding; a value read or written wrongly is off by far more
TILE = 96  # rows that the kernels take at once: kTile in product.hpp


def write_kernel_cases(path: Path) -> None:
    """All cases: around a tile's edges, maps of one position, offsets far outside, one token and many."""
    torch.manual_seed(0)
    with CaseFile(path) as file, torch.inference_mode():
        for height, width, channels in ((4, 4, 32), (12, 140, 96)):
            _patch_embed(file, height, width, channels)
        for height, width, channels, window, shifted in (
            (1, 1, 32, 7, True),
            (7, 14, 64, 7, False),
            (8, 15, 64, 7, True),
            (3, 4, 32, 2, True),
            (13, 12, 32, 12, True),
        ):
            _swin_block(file, height, width, channels, window, shifted)
        for tokens, channels, heads, hidden in ((1, 16, 1, 16), (7, 48, 3, 32), (TILE + 2, 80, 5, 848)):
            _bert_layer(file, tokens, channels, heads, hidden)
        for sizes, offsets in (
            (((1, 1),), 0.0),
            (((1, 1), (1, 1)), 300.0),
            (((8, 12), (4, 6), (2, 3), (1, 2), (1, 1)), 3.0),
            (((97, 1), (49, 1)), 20.0),
            (((1, 97), (1, 49)), float("nan")),
        ):
            _dyconv(file, sizes, offsets)
        for positions, tokens in ((1, 1), (TILE - 1, 3), (TILE, 16), (TILE + 1, 17), (2 * TILE + 5, 40)):
            for normed in (False, True):
                _bi_attention(file, positions, tokens, normed)


def _patch_embed(file: CaseFile, height: int, width: int, channels: int) -> None:
    module, images = PatchEmbed(channels).eval(), torch.randn(2, 3, height, width)
    module.norm.weight.normal_()
    module.norm.bias.normal_()
    sizes, parameters = [2, height, width, channels, 4], [*module.proj.parameters(), *module.norm.parameters()]
    _write(file, "patch_embed", sizes, [module.norm.eps], [images, *parameters], [module(images)])


def _swin_block(file: CaseFile, height: int, width: int, channels: int, window: int, shifted: bool) -> None:
    heads = channels // 32
    config = SwinConfig(embed_dim=channels, num_heads=(heads,) * 4, window_size=window)
    block, x = Block(config, 0, int(shifted)).eval(), torch.randn(2, height, width, channels)
    block.attn.relative_position_bias_table.normal_()
    scale = torch.ones(3 * channels)
    scale[:channels] = block.attn.scale
    qkv = [block.attn.qkv.weight * scale[:, None], block.attn.qkv.bias * scale]
    layers = (block.norm1, block.norm2, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
    norms, others = layers[:2], layers[2:]
    parameters = [parameter for norm in norms for parameter in (norm.weight, norm.bias)] + qkv
    parameters += [parameter for layer in others for parameter in (layer.weight, layer.bias)]
    sizes = [2, height, width, channels, heads, window, block.shift, block.mlp.fc1.out_features]
    numbers = [norm.eps for norm in norms]
    _write(file, "swin_block", sizes, numbers, [x, *parameters, block.attn.relative_position_bias()], [block(x)])


def _bert_layer(file: CaseFile, tokens: int, channels: int, heads: int, hidden: int) -> None:
    bert = BertConfig(hidden_size=channels, num_attention_heads=heads, intermediate_size=hidden)
    layer, x, mask = (
        BertEncoderLayer(HeadConfig(), bert).eval(),
        torch.randn(2, tokens, channels),
        torch.ones(2, tokens),
    )
    mask[1, tokens // 2 + 1 :] = 0
    attention = layer.attention
    inputs = (attention.self.query, attention.self.key, attention.self.value)
    factors = ((channels // heads) ** -0.5, 1, 1)
    qkv = [
        torch.cat([getattr(part, name) * factor for part, factor in zip(inputs, factors, strict=True)])
        for name in ("weight", "bias")
    ]
    norms = (attention.output.LayerNorm, layer.output.LayerNorm)
    parameters = [parameter for norm in norms for parameter in (norm.weight, norm.bias)] + qkv
    layers = (attention.output.dense, layer.intermediate.dense, layer.output.dense)
    parameters += [parameter for part in layers for parameter in (part.weight, part.bias)]
    numbers = [-LIMIT, LIMIT, -LIMIT, LIMIT, *(norm.eps for norm in norms)]
    inputs_of_kernel = [x, padding_mask(mask, torch.float32), *parameters]
    _write(file, "bert_layer", [2, tokens, channels, heads, hidden], numbers, inputs_of_kernel, [layer((), x, mask)[1]])


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


def _bi_attention(file: CaseFile, positions: int, tokens: int, normed: bool) -> None:
    image, keys, values = (torch.randn(2, n, CHANNELS) for n in (positions, NUM_HEADS * tokens, NUM_HEADS * tokens))
    bias, mask = torch.randn(2, NUM_HEADS * tokens, 1), torch.ones(2, 1, 1, tokens)
    keys /= 8  # scores of a few, which fewer bits still tell apart
    mask[1, ..., tokens // 2 + 1 :] = MASKED
    weight, beta, gain, offset = norm = torch.randn(4, CHANNELS)
    rows = torch.nn.functional.layer_norm(image, (CHANNELS,), weight, beta) if normed else image
    scores = (keys.double() @ rows.double().transpose(1, 2) + bias).clamp(-LIMIT, LIMIT)
    to_text = scores.softmax(-1) @ rows.double()
    by_head = scores.unflatten(1, (NUM_HEADS, -1)) + mask.transpose(2, 3)
    to_image = by_head.softmax(2).flatten(1, 2).transpose(1, 2) @ values.double()
    if normed:
        to_image = rows + gain * (to_image + offset)
    sizes = [2, positions, CHANNELS, NUM_HEADS, tokens, int(normed)]
    inputs = [image, keys, bias, values, mask, norm]
    _write(file, "bi_attention", sizes, [-LIMIT, LIMIT, 1e-5], inputs, [to_text, to_image])


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
    file.values(np.array([FP32, WHOLE, *numbers], "<f4"))
    file.floats([tensor.numpy() for tensor in inputs])
    file.floats([tensor.numpy() for tensor in expected])
