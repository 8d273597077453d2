"""Whole bi-attentions as one node each, for a runtime that has kernels for them."""

from __future__ import annotations

from collections import Counter

import onnx_ir

from glip_export.graphs.fused_nodes import put_node, settle
from glip_export.graphs.modules import BiAttentionModule, ModuleGraph, NormedResidual
from glip_export.graphs.quantized import is_quantized

BI_ATTENTION = "GlipBiAttention"  # as in trt/nodes.py; the sizes as in trt/*_launches.py, which are above this module
CHANNEL_UNIT, MAX_CHANNELS = 32, 256


def fuse_bi_attentions(model: onnx_ir.Model) -> int:
    """Puts one node GlipBiAttention in the place of each bi-attention of a float32 graph, in place; gives how many.

    Inputs: the image before its norm (B, N, C), keys (B, h*T, C), bias (B, h*T, 1), values (B, h*T, C), the mask
    (B, 1, 1, T), then norm_weight, norm_bias, gain and offset (C,). Outputs: what the text reads (B, h*T, C), and the
    image's sum (B, N, C), under the names that they had. Attributes: epsilon, and limits, of the scores. Nodes and
    weights that nothing reads any more go, and the graph is sorted. A graph with int8 weights stays as it is, and so
    does a bi-attention that has no norm and sum around it or other channels than the kernels take.
    """
    if is_quantized(model):
        return 0
    whole = [
        (attention, attention.residual)
        for attention in ModuleGraph(model).bi_attentions()
        if attention.residual is not None and _has_kernel(attention.residual)
    ]
    seen: Counter[str] = Counter()
    for attention, residual in whole:
        calls = seen[attention.name]  # of one module that attends level by level
        seen[attention.name] += 1
        _replace(model.graph, attention, residual, f"{attention.name}.{calls}" if calls else attention.name)
    if whole:
        settle(model)
    return len(whole)


def _has_kernel(residual: NormedResidual) -> bool:
    channels = len(residual.gain)
    return channels % CHANNEL_UNIT == 0 and channels <= MAX_CHANNELS


def _replace(graph: onnx_ir.Graph, attention: BiAttentionModule, residual: NormedResidual, name: str) -> None:
    inputs = (residual.input, attention.keys, attention.bias, attention.values, attention.mask)
    parameters = {
        "norm_weight": residual.norm.weight,
        "norm_bias": residual.norm.bias,
        "gain": residual.gain,
        "offset": residual.offset,
    }
    attributes: dict[str, int | float | list[float]] = {
        "epsilon": residual.norm.epsilon,
        "limits": [attention.low, attention.high],
    }
    put_node(graph, name, BI_ATTENTION, inputs, parameters, attributes, (attention.to_text, residual.output))
