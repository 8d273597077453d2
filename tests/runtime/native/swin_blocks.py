"""Swin blocks of the model with weights that show every mistake, and their parameters as the kernel takes them."""

from __future__ import annotations

import numpy as np
import torch

from glip_export.config import SwinConfig
from glip_export.model.swin_block import Block
from glip_export.runtime.native import Kernels


def block_of(channels: int, heads: int, window: int, shifted: bool) -> Block:
    config = SwinConfig(
        embed_dim=channels, depths=(2, 2, 2, 2), num_heads=(heads, heads, heads, heads), window_size=window
    )
    torch.manual_seed(channels + window)
    block = Block(config, stage=0, place=int(shifted))
    with torch.no_grad():
        block.attn.relative_position_bias_table.normal_()
        for norm in (block.norm1, block.norm2):
            norm.weight.add_(torch.randn(channels) / 4)
            norm.bias.normal_(std=0.25)
    return block.eval()


def parameters_of(kernels: Kernels, block: Block, precision: str) -> list[np.ndarray]:
    with torch.inference_mode():
        parameters = [each.numpy() for norm in (block.norm1, block.norm2) for each in (norm.weight, norm.bias)]
        scale = torch.ones(block.attn.qkv.out_features, 1)
        scale[: block.attn.proj.out_features] = block.attn.scale
        qkv = (block.attn.qkv.weight * scale).numpy(), (block.attn.qkv.bias * scale[:, 0]).numpy()
        parameters += kernels.pack_layer(qkv, precision)
        for layer in (block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            parameters += kernels.pack_layer((layer.weight.numpy(), layer.bias.numpy()), precision)
        relative = block.attn.relative_position_bias().numpy()
    beyond = kernels.padded(relative.shape[-1]) - relative.shape[-1]
    return [*parameters, np.pad(relative, ((0, 0), (0, 0), (0, beyond)), constant_values=-3e38)]
