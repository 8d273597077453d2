"""Whole DyConv blocks as one node each, for a runtime that has a kernel for the block."""

from __future__ import annotations

import onnx_ir

from glip_export.graphs.contracts import DYCONV
from glip_export.graphs.fused_nodes import put_node, settle
from glip_export.graphs.modules import DyConvModule, ModuleGraph
from glip_export.graphs.quantized import is_quantized
from glip_export.graphs.walking import F32

CHANNEL_UNIT = 32  # the kernels go through so many channels at once
MAX_CHANNELS, MAX_LEVELS = 1024, 6  # as in trt/dyconv_launches.py

NO_KERNEL = (
    f"our kernels take no DyConv block of this model (channels in {CHANNEL_UNIT}s up to {MAX_CHANNELS}, no int8)"
)


def fuse_dyconv(model: onnx_ir.Model) -> int:
    """Puts one node GlipDyConv in the place of each DyConv block of a float32 graph, in place; gives how many.

    Inputs: the L levels' features (B, C, Hl, Wl), then the block's `parameters_of`. Outputs: the L maps
    (B, C, Hl, Wl), under the names that they had. Attributes: levels, groups and epsilon, those of DyConv 0, 1 and 2's
    GroupNorm. Nodes and weights that nothing reads any more go. A graph with int8 weights stays as it is, and so does a
    block whose channels are no multiple of CHANNEL_UNIT or above MAX_CHANNELS, whose convolutions differ in groups, or
    that has more than MAX_LEVELS levels.
    """
    if is_quantized(model):
        return 0
    blocks = [block for block in ModuleGraph(model).dyconvs() if _has_kernel(block)]
    for block in blocks:
        _replace(model.graph, block)
    if blocks:
        settle(model)
    return len(blocks)


def parameters_of(block: DyConvModule) -> dict[str, F32]:
    """The node's parameters, in the order of its inputs, float32 each.

    Convolutions' weights are tap-major, (O, 9 * C) with column tap * C + c and tap 3 * ky + kx. offset_weight
    (27, 9 * C), offset_bias (27,); of DyConv 0, 1 and 2 weight (C, 9 * C), bias, norm_weight and norm_bias (C,) each;
    attention_weight (C,), attention_bias (1,); DyReLU's first_weight (C / 4, C), first_bias (C / 4,), last_weight
    (4 * C, C / 4) and last_bias (4 * C,).
    """
    first, last = block.lines
    parameters = {"offset_weight": _tap_major(block.offset.weight), "offset_bias": block.offset.bias}
    for number, convolution in enumerate(block.convolutions):
        parameters |= {
            f"weight{number}": _tap_major(convolution.weight),
            f"bias{number}": convolution.bias,
            f"norm_weight{number}": convolution.norm_weight,
            f"norm_bias{number}": convolution.norm_bias,
        }
    return parameters | {
        "attention_weight": block.attention.weight.ravel(),
        "attention_bias": block.attention.bias,
        "first_weight": first.weight,
        "first_bias": first.bias,
        "last_weight": last.weight,
        "last_bias": last.bias,
    }


def _tap_major(weight: F32) -> F32:
    return weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)


def _has_kernel(block: DyConvModule) -> bool:
    channels, groups = len(block.convolutions[0].bias), {convolution.groups for convolution in block.convolutions}
    fits = channels % CHANNEL_UNIT == 0 and channels <= MAX_CHANNELS and len(block.features) <= MAX_LEVELS
    return fits and len(groups) == 1 and channels % groups.pop() == 0


def _replace(graph: onnx_ir.Graph, block: DyConvModule) -> None:
    attributes: dict[str, int | float | list[float]] = {
        "levels": len(block.features),
        "groups": block.convolutions[0].groups,
        "epsilon": [convolution.epsilon for convolution in block.convolutions],
    }
    put_node(graph, block.name, DYCONV, block.features, parameters_of(block), attributes, block.outputs)
