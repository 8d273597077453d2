"""Whole Swin blocks as one node each, for a runtime that has kernels for the block."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir

from glip_export.graphs.fused_nodes import put_node, settle
from glip_export.graphs.modules import ModuleGraph, SwinBlockModule
from glip_export.graphs.quantized import is_quantized
from glip_export.graphs.walking import F32

SWIN_BLOCK = "GlipSwinBlock"  # as in trt/nodes.py; the sizes as in trt/*_launches.py, which are above this module
DEPTH_UNIT, MAX_DEPTH, MAX_WINDOW_VALUES = 16, 64, 4608
NORM_UNIT, MAX_NORM_CHANNELS = 8, 3072


def fuse_swin(model: onnx_ir.Model) -> int:
    """Puts one node GlipSwinBlock in the place of each Swin block of a float32 graph, in place; gives how many.

    Inputs: x (B, H, W, C), then the block's `parameters_of`. Output: (B, H, W, C), under the name that it had.
    Attributes: window, shift, scale of the scores and epsilon, of the two norms. Nodes and weights that nothing reads
    any more go. A graph with int8 weights stays as it is, and so does a block of a size that the kernels do not take.
    """
    if is_quantized(model):
        return 0
    blocks = [block for block in ModuleGraph(model).swin_blocks() if _has_kernel(block)]
    for block in blocks:
        window = _window(block)
        attributes: dict[str, int | float | list[float]] = {
            "window": window,
            "shift": window // 2 if block.shifted else 0,
            "scale": block.scale,
            "epsilon": [norm.epsilon for norm in block.norms],
        }
        put_node(model.graph, block.name, SWIN_BLOCK, [block.input], parameters_of(block), attributes, [block.output])
    if blocks:
        settle(model)
    return len(blocks)


def parameters_of(block: SwinBlockModule) -> dict[str, F32]:
    """The node's parameters, in the order of its inputs, float32 each; weights are (out, in).

    norm1_weight, norm1_bias (C,); qkv_weight (3C, C), qkv_bias (3C,); relative, `arranged`; proj_weight (C, C),
    proj_bias (C,); norm2_weight, norm2_bias (C,); fc1_weight (hidden, C), fc1_bias (hidden,); fc2_weight (C, hidden),
    fc2_bias (C,).
    """
    first, second = block.norms
    return {
        "norm1_weight": first.weight,
        "norm1_bias": first.bias,
        "qkv_weight": block.queries.weight,
        "qkv_bias": block.queries.bias,
        "relative": arranged(block.relative),
        "proj_weight": block.projection.weight,
        "proj_bias": block.projection.bias,
        "norm2_weight": second.weight,
        "norm2_bias": second.bias,
        "fc1_weight": block.first.weight,
        "fc1_bias": block.first.bias,
        "fc2_weight": block.last.weight,
        "fc2_bias": block.last.bias,
    }


def arranged(relative: F32) -> F32:
    """Relative biases (heads, n, n) in the order in which the kernels read them: (heads, strips, strips, 32, 8).

    Squares of 16 queries and 16 keys, the last filled up with zeros. Lane 4 * g + t of a warp has a square's queries g
    and g + 8: keys 2t and 2t + 1 of both, then keys 2t + 8 and 2t + 9.
    """
    heads, count, _ = relative.shape
    strips = -(-count // 16)
    whole = np.zeros((heads, 16 * strips, 16 * strips), np.float32)
    whole[:, :count, :count] = relative
    axes = whole.reshape(heads, strips, 2, 8, strips, 2, 4, 2)  # of a query: strip, half, g; of a key: half, t, which
    return np.ascontiguousarray(axes.transpose(0, 1, 4, 3, 6, 5, 2, 7).reshape(heads, strips, strips, 32, 8))


def _window(block: SwinBlockModule) -> int:
    return math.isqrt(block.relative.shape[-1])


def _has_kernel(block: SwinBlockModule) -> bool:
    heads, count, _ = block.relative.shape
    channels = len(block.norms[0].bias)
    depth = channels // heads
    takes_heads = depth % DEPTH_UNIT == 0 and depth <= MAX_DEPTH and count * depth <= MAX_WINDOW_VALUES
    return takes_heads and channels % NORM_UNIT == 0 and channels <= MAX_NORM_CHANNELS
