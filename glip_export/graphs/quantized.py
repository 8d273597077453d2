"""A quantized graph read as the float32 graph that it stands for."""

from __future__ import annotations

import numpy as np
import onnx_ir
from numpy.typing import NDArray

FLOAT = onnx_ir.DataType.FLOAT
QUANTIZED = "_quantized"  # what an int8 value is called after the value that it stands for


def without_quantization(model: onnx_ir.Model) -> onnx_ir.Model:
    """A new model without QuantizeLinear and DequantizeLinear; the given one is not changed.

    Pairs on activations are gone, weights are float32 initializers of their old names with what their int8 values
    stand for, and embedding tables as well. A graph that is not quantized comes back as it is.
    """
    plain = model.clone()
    graph = plain.graph
    for node in list(graph):
        if node.op_type == "DequantizeLinear":
            _remove(graph, node)
    for node in list(graph):
        if node.op_type == "QuantizeLinear" and not node.outputs[0].uses():
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    return plain


def is_quantized(model: onnx_ir.Model) -> bool:
    """Whether a graph holds quantized weights or activations."""
    return any(node.op_type == "DequantizeLinear" for node in model.graph)


def add_initializer(graph: onnx_ir.Graph, name: str, array: NDArray) -> onnx_ir.Value:
    """A new constant of the graph, of the array's type and shape."""
    tensor = onnx_ir.Tensor(array, name=name)
    value = onnx_ir.Value(
        name=name, shape=onnx_ir.Shape(array.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def dequantized(
    values: NDArray, scale: NDArray, zero_point: NDArray | None = None, axis: int = 1
) -> NDArray[np.float32]:
    """ONNX's DequantizeLinear: (values - zero_point) * scale, scalar or along the axis."""
    shape = [1] * values.ndim
    if scale.ndim:
        shape[axis] = -1
    shifted = values.astype(np.int32)
    if zero_point is not None:
        shifted = shifted - zero_point.astype(np.int32).reshape(shape)
    return shifted.astype(np.float32) * scale.astype(np.float32).reshape(shape)


def _remove(graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
    """Takes one DequantizeLinear out: after QuantizeLinear, on a weight, or on what Gather reads of a table."""
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    if source.is_initializer():
        weight = _float_initializer(graph, node, source)
        result.replace_all_uses_with(weight)
        graph.remove(node, safe=True)
        return
    maker = source.producer()
    if maker is None:
        return
    if maker.op_type == "QuantizeLinear":
        _replace(graph, node, maker.inputs[0], named=result.is_graph_output())
    elif maker.op_type == "Gather" and maker.inputs[0] is not None and maker.inputs[0].is_initializer():
        maker.replace_input_with(0, _float_initializer(graph, node, maker.inputs[0]))
        source.type, source.shape = result.type, result.shape
        _replace(graph, node, source, named=True)


def _replace(graph: onnx_ir.Graph, node: onnx_ir.Node, kept: onnx_ir.Value | None, named: bool) -> None:
    """`kept` in place of what the node makes. named: and with its name, the contract's or the value's old one."""
    assert kept is not None
    result = node.outputs[0]
    name = result.name
    result.replace_all_uses_with(kept, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if named:
        kept.name = name
        kept.type, kept.shape = result.type, result.shape


def _float_initializer(graph: onnx_ir.Graph, node: onnx_ir.Node, source: onnx_ir.Value) -> onnx_ir.Value:
    name = str(source.name).removesuffix(QUANTIZED)
    made = graph.initializers.get(name)
    if made is not None and made.meta.get(QUANTIZED) is source:
        return made
    if made is not None or any(value.name == name for other in graph for value in other.outputs):
        name = f"{source.name}_float"  # graphs that were joined have the one's name in the other
        if name in graph.initializers:
            return graph.initializers[name]
    scale, zero_point = _array(node.inputs[1]), _array(node.inputs[2]) if len(node.inputs) > 2 else None
    assert scale is not None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    values = _array(source)
    assert values is not None
    if node.inputs[0] is not source:  # what Gather reads of it has another number of axes
        axis = -1
    value = add_initializer(graph, name, dequantized(values, scale, zero_point, axis))
    value.meta[QUANTIZED] = source
    return value


def _array(value: onnx_ir.Value | None) -> NDArray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
