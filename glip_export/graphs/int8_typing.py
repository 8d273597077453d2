"""An int8 bundle's graph as TensorRT takes it: strongly typed, symmetric int8 products, float16 with islands beside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from glip_export.graphs.quantized import add_initializer

INT8 = onnx_ir.DataType.INT8
SMALLEST_SCALE = float(np.finfo(np.float16).tiny)  # below it float16 loses digits
_PRODUCTS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class _Int8Product:
    """How one product is quantized: its input's scale, and its weight."""

    scale: float
    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    axis: int


def with_int8_products(converted: onnx_ir.Model, model: onnx_ir.Model) -> onnx_ir.Model:
    """`converted`, the graph without its integers, changed in place: its products are int8 again as in `model`.

    uint8 around 128 becomes int8 around 0, which is q - 128: the same numbers. A scale has its value's float type. In
    float16 channels whose scale that type could not tell are given a larger one, and rounded again. Weights that are
    int8 in `model` only to be stored stay float, as do results of convolutions.
    """
    graph = converted.graph
    places = {node.name: node for node in graph}
    writer = _Int8Writer(graph)
    for name, product in _int8_products(model).items():
        writer.write(places[name], product)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    converted.metadata_props["glip.precision"] = "int8"
    return converted


def _int8_products(model: onnx_ir.Model) -> dict[str, _Int8Product]:
    found = {}
    for node in model.graph:
        if node.op_type in _PRODUCTS:
            given, weight = (_dequantizer(value) for value in node.inputs[:2])
            if given is None or weight is None or weight.inputs[0] is None or not weight.inputs[0].is_initializer():
                continue
            axis = weight.attributes["axis"].as_int()
            scale = float(_array(given.inputs[1]))
            found[str(node.name)] = _Int8Product(scale, _array(weight.inputs[0]), _array(weight.inputs[1]), axis)
    return found


def _dequantizer(value: onnx_ir.Value | None) -> onnx_ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


class _Int8Writer:
    def __init__(self, graph: onnx_ir.Graph) -> None:
        self.graph = graph
        self.values: dict[onnx_ir.Value, onnx_ir.Value] = {}
        self.weights: dict[tuple[str, onnx_ir.DataType], tuple[onnx_ir.Value, onnx_ir.Value]] = {}

    def write(self, node: onnx_ir.Node, product: _Int8Product) -> None:
        given, weight = node.inputs[:2]
        assert given is not None and weight is not None and given.dtype is not None
        if given not in self.values:
            self.values[given] = self._activation(node, given, product.scale)
        node.replace_input_with(0, self.values[given])
        key = (str(weight.name), given.dtype)
        if key not in self.weights:
            values, scale = _for_type(product, given.dtype)
            name = f"{weight.name}_int8"
            self.weights[key] = (
                add_initializer(self.graph, name, values),
                self._scale(f"{name}_scale", scale, given.dtype),
            )
        name = f"{weight.name}_{node.outputs[0].name}_dequantized"
        dequantize = self._node("DequantizeLinear", [*self.weights[key]], {"axis": product.axis}, name, node)
        dequantize.outputs[0].type, dequantize.outputs[0].shape = onnx_ir.TensorType(given.dtype), weight.shape
        self.graph.insert_before(node, dequantize)
        node.replace_input_with(1, dequantize.outputs[0])

    def _activation(self, node: onnx_ir.Node, given: onnx_ir.Value, scale: float) -> onnx_ir.Value:
        assert given.dtype is not None
        step = self._scale(f"{given.name}_step", np.array(max(scale, SMALLEST_SCALE), np.float32), given.dtype)
        zero = add_initializer(self.graph, f"{given.name}_zero", np.zeros((), np.int8))
        quantize = self._node("QuantizeLinear", [given, step, zero], {}, f"{given.name}_quantized", node)
        quantize.outputs[0].type, quantize.outputs[0].shape = onnx_ir.TensorType(INT8), given.shape
        inputs = [quantize.outputs[0], step, zero]
        dequantize = self._node("DequantizeLinear", inputs, {}, f"{given.name}_dequantized", node)
        dequantize.outputs[0].type, dequantize.outputs[0].shape = onnx_ir.TensorType(given.dtype), given.shape
        self.graph.insert_before(node, [quantize, dequantize])
        return dequantize.outputs[0]

    def _scale(self, name: str, scale: NDArray[np.float32], dtype: onnx_ir.DataType) -> onnx_ir.Value:
        return add_initializer(self.graph, name, scale.astype(dtype.numpy()))

    def _node(
        self, op_type: str, inputs: list[onnx_ir.Value], attributes: dict[str, int], name: str, of: onnx_ir.Node
    ) -> onnx_ir.Node:
        node = onnx_ir.node(op_type, inputs, attributes)
        node.name = f"{op_type}_{name}"
        node.outputs[0].name = name
        node.metadata_props.update(of.metadata_props)
        return node


def _for_type(product: _Int8Product, dtype: onnx_ir.DataType) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The weight with scales that the type can tell."""
    if dtype == onnx_ir.DataType.FLOAT or product.weight_scale.min() >= SMALLEST_SCALE:
        return product.weight, product.weight_scale
    scale = np.maximum(product.weight_scale, SMALLEST_SCALE).astype(np.float32)
    shape = [1] * product.weight.ndim
    shape[product.axis] = -1
    return np.rint(product.weight * (product.weight_scale / scale).reshape(shape)).astype(np.int8), scale


def _array(value: onnx_ir.Value | None) -> NDArray:
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()
