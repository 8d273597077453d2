"""A float16 or bfloat16 graph as a float32 graph that rounds where the first one would, for ONNX Runtime on the CPU.

ONNX Runtime has hardly any float16 kernel for the CPU: it computes in float32, and at every optimisation level, none
included, it takes away the casts between such nodes, so that 300 * 300 / 300 is 300 though float16 ends at 65504. A
float16 graph run like that proves little; a bfloat16 one does not load. Here the casts down and up again are written
out behind every node, which ONNX Runtime leaves alone (the tests hold it to that): every value is rounded to its type
once, sums within one product, softmax or norm are float32, as tensor cores add.
"""

from __future__ import annotations

import onnx_ir

from glip_export.graphs.islands import is_moving

FLOAT = onnx_ir.DataType.FLOAT
LOW = (onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16)


def rounded(model: onnx_ir.Model) -> onnx_ir.Model:
    """A new model, float32 throughout, whose values are those that the model's own types can hold."""
    emulated = model.clone()
    graph = emulated.graph
    for value in graph.initializers.values():
        _widen(value)
    for node in list(graph):
        if node.op_type == "Cast" and node.attributes["to"].as_int() in LOW:
            node.attributes["to"] = onnx_ir.AttrInt64("to", FLOAT)
        for value in node.outputs:
            if value.dtype in LOW:
                low, value.type = value.dtype, onnx_ir.TensorType(FLOAT)
                if not is_moving(node):
                    _round(graph, node, value, low)
    return emulated


def _widen(value: onnx_ir.Value) -> None:
    if value.dtype in LOW and value.const_value is not None:
        array = value.const_value.numpy().astype("float32")
        value.const_value = onnx_ir.Tensor(array, name=value.name)
        value.type = onnx_ir.TensorType(FLOAT)


def _round(graph: onnx_ir.Graph, node: onnx_ir.Node, value: onnx_ir.Value, low: onnx_ir.DataType) -> None:
    """Behind the node casts down and up; who read the value reads what comes out."""
    readers = list(value.uses())
    down = onnx_ir.node("Cast", [value], {"to": low})
    up = onnx_ir.node("Cast", [down.outputs[0]], {"to": FLOAT})
    for cast, dtype, suffix in ((down, low, "rounded"), (up, FLOAT, "widened")):
        cast.outputs[0].name = cast.name = f"{value.name}_{suffix}"
        cast.outputs[0].type, cast.outputs[0].shape = onnx_ir.TensorType(dtype), value.shape
    graph.insert_after(node, [down, up])
    for reader, place in readers:
        reader.replace_input_with(place, up.outputs[0])
