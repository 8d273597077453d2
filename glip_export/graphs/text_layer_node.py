"""Whole layers of BERT as one node each, for a runtime that has kernels for the layer."""

from __future__ import annotations

import numpy as np
import onnx_ir

from glip_export.graphs.fused_nodes import put_node, settle
from glip_export.graphs.modules import BertLayerModule, ModuleGraph
from glip_export.graphs.quantized import is_quantized
from glip_export.graphs.walking import F32

TEXT_LAYER = "GlipTextLayer"  # as in trt/nodes.py, which is above this module
DEPTHS, MAX_DEPTH = 8, 128  # the kernels' channels of a head: a multiple, and at most
HIDDEN, MAX_NORMED = 8, 4096  # of the MLP: a multiple; of a norm: at most


def fuse_text_layers(model: onnx_ir.Model) -> int:
    """Puts one node GlipTextLayer in the place of each layer of BERT of a float32 graph, in place; gives how many.

    Inputs: x (B, T, C), what is added to the scores (B, 1, 1, T), then the layer's `parameters_of`. Output: (B, T, C),
    under the name that it had. Attributes: heads, scale, epsilon (of the two norms), limits (of the scores, then of
    the MLP's values and the result). A graph with int8 weights stays as it is, and so does a layer of sizes
    that the kernels do not take.
    """
    if is_quantized(model):
        return 0
    layers = [layer for layer in ModuleGraph(model).bert_layers() if _has_kernel(layer)]
    for layer in layers:
        attributes: dict[str, int | float | list[float]] = {
            "heads": layer.heads,
            "scale": layer.scale,
            "epsilon": [norm.epsilon for norm in layer.norms],
            "limits": [*layer.scores, *layer.limits],
        }
        inputs, outputs = (layer.input, layer.mask), (layer.output,)
        put_node(model.graph, layer.name, TEXT_LAYER, inputs, parameters_of(layer), attributes, outputs)
    if layers:
        settle(model)
    return len(layers)


def parameters_of(layer: BertLayerModule) -> dict[str, F32]:
    """The node's parameters, in the order of its inputs: weight and bias of four linear layers, then of two norms.

    The first linear layer is queries, keys and values behind one another, (3 * C, C).
    """
    reads = layer.queries, layer.keys, layer.values
    parameters = {
        "qkv_weight": np.concatenate([linear.weight for linear in reads]),
        "qkv_bias": np.concatenate([linear.bias for linear in reads]),
    }
    for name in ("projection", "first", "last"):
        linear = getattr(layer, name)
        parameters |= {f"{name}_weight": np.ascontiguousarray(linear.weight), f"{name}_bias": linear.bias}
    for number, norm in enumerate(layer.norms):
        parameters |= {f"norm{number}_weight": norm.weight, f"norm{number}_bias": norm.bias}
    return parameters


def _has_kernel(layer: BertLayerModule) -> bool:
    depth, hidden = len(layer.queries.bias) // layer.heads, len(layer.first.bias)
    takes_heads = depth % DEPTHS == 0 and depth <= MAX_DEPTH
    return takes_heads and hidden % HIDDEN == 0 and len(layer.last.bias) <= MAX_NORMED
