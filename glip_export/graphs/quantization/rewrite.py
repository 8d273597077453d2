"""A float32 graph in QDQ form: int8 weights, one scale an output channel, and uint8 activations around 128."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from glip_export.graphs.quantization.products import Product, products
from glip_export.graphs.quantized import QUANTIZED, add_initializer

FLOAT, INT8, UINT8, INT32 = (onnx_ir.DataType[name] for name in ("FLOAT", "INT8", "UINT8", "INT32"))
ZERO_POINT = 128  # of every activation: symmetric, so that TensorRT's int8 is q - 128
LARGEST = 127
TINY = 1e-12  # a scale is never 0: DequantizeLinear would give 0, QuantizeLinear divides

Keep = Callable[[Product], bool]


def quantized(model: onnx_ir.Model, ranges: Mapping[str, float], stays_float: Keep | None = None) -> onnx_ir.Model:
    """A new model; the given one is not changed.

    ranges: of each activation that is quantized the largest magnitude, by its name. stays_float: products to leave.
    A value x keeps its name; what stands for it is x_quantized and x_dequantized, and a weight's scales are w_scale.
    Raises KeyError for an activation without a range.
    """
    result = model.clone()
    writer = _Writer(result.graph, ranges)
    for product in list(products(result.graph)):
        if stays_float is None or not stays_float(product):
            writer.write(product)
    writer.drop_unread()
    result.metadata_props["glip.precision"] = "int8"
    return result


def activations(model: onnx_ir.Model) -> list[str]:
    """The names of the values whose ranges `quantized` needs, each once, in the order they are made."""
    names: dict[str, None] = {}
    for product in products(model.graph):
        if product.activation:
            names.setdefault(str(product.input.name))
        if product.result:
            names.setdefault(str(product.node.outputs[0].name))
    return list(names)


def quantized_weight(weight: NDArray, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Values of -127..127 and one scale a channel of the axis."""
    others = tuple(place for place in range(weight.ndim) if place != axis)
    scale = np.maximum(np.abs(weight).max(axis=others) / LARGEST, TINY).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    values = np.clip(np.rint(weight / scale.reshape(shape)), -LARGEST, LARGEST).astype(np.int8)
    return values, scale


class _Writer:
    """Writes into one graph; each value and weight is quantized once."""

    def __init__(self, graph: onnx_ir.Graph, ranges: Mapping[str, float]) -> None:
        self.graph = graph
        self.ranges = ranges
        self.weights: dict[onnx_ir.Value, tuple[onnx_ir.Value, onnx_ir.Value]] = {}
        self.stored: dict[onnx_ir.Value, onnx_ir.Value] = {}  # float again, once for all that read it
        self.values: dict[onnx_ir.Value, onnx_ir.Value] = {}
        self.scales: dict[str, onnx_ir.Value] = {}
        self.zero_point: onnx_ir.Value | None = None

    def write(self, product: Product) -> None:
        if product.node.op_type == "Gather":
            self._table(product)
            return
        if not product.activation and product.weight in self.stored:
            product.node.replace_input_with(product.place, self.stored[product.weight])
            return
        weight, scale = self._weight(product)
        axis = {"axis": product.axis}
        name = f"{product.weight.name}_dequantized"
        place = f"{name}_{product.node.outputs[0].name}" if self._made(name) else name
        dequantize = self._node("DequantizeLinear", [weight, scale], axis, place, product.weight, FLOAT, product.node)
        self.graph.insert_before(product.node, dequantize)
        product.node.replace_input_with(product.place, dequantize.outputs[0])
        if not product.activation:
            self.stored[product.weight] = dequantize.outputs[0]
        else:
            given = product.input
            product.node.replace_input_with(0, self._activation(given, product.node))
            if product.result:
                self._bias(product, self._scale(given), scale)
                self._result(product)

    def drop_unread(self) -> None:
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]

    def _made(self, name: str) -> bool:
        if name in self.scales:
            return True
        self.scales[name] = self.scales.get(name)  # type: ignore[assignment]
        return False

    def _weight(self, product: Product) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        if product.weight not in self.weights:
            values, scale = quantized_weight(product.weight.const_value.numpy(), product.axis)  # type: ignore[union-attr]
            name = product.weight.name
            self.weights[product.weight] = (
                add_initializer(self.graph, f"{name}{QUANTIZED}", values),
                add_initializer(self.graph, f"{name}_scale", scale),
            )
        return self.weights[product.weight]

    def _table(self, product: Product) -> None:
        """Rows are gathered as int8 and dequantized after, or the whole table would be, at every run."""
        weight, scale = self._weight(product)
        gather = product.node
        value = gather.outputs[0]
        rows = onnx_ir.node("Gather", [weight, gather.inputs[1]], dict(gather.attributes))
        rows.outputs[0].name = f"{value.name}_rows"
        rows.outputs[0].type, rows.outputs[0].shape = onnx_ir.TensorType(INT8), value.shape
        rows.name = gather.name
        rows.metadata_props.update(gather.metadata_props)
        self.graph.insert_before(gather, rows)
        last = len(value.shape) - 1  # type: ignore[arg-type]
        name = str(value.name)
        value.name = f"{name}_float"
        dequantize = self._node(
            "DequantizeLinear", [rows.outputs[0], scale], {"axis": last}, name, value, FLOAT, gather
        )
        self.graph.insert_after(rows, dequantize)
        value.replace_all_uses_with(dequantize.outputs[0], replace_graph_outputs=True)
        self.graph.remove(gather, safe=True)

    def _activation(self, value: onnx_ir.Value, reader: onnx_ir.Node) -> onnx_ir.Value:
        if value not in self.values:
            scale, zero = self._scale(value), self._zero()
            name = str(value.name)
            quantize = self._node(
                "QuantizeLinear", [value, scale, zero], {}, f"{name}{QUANTIZED}", value, UINT8, reader
            )
            dequantize = self._node(
                "DequantizeLinear", [quantize.outputs[0], scale, zero], {}, f"{name}_dequantized", value, FLOAT, reader
            )
            self.graph.insert_before(reader, [quantize, dequantize])
            self.values[value] = dequantize.outputs[0]
        return self.values[value]

    def _result(self, product: Product) -> None:
        value = product.node.outputs[0]
        name = str(value.name)
        readers = [(use.node, use.idx) for use in value.uses()]
        scale, zero = self._scale(value), self._zero()
        quantize = self._node(
            "QuantizeLinear", [value, scale, zero], {}, f"{name}{QUANTIZED}", value, UINT8, product.node
        )
        is_output = value.is_graph_output()
        made = name if is_output else f"{name}_dequantized"
        dequantize = self._node(
            "DequantizeLinear", [quantize.outputs[0], scale, zero], {}, made, value, FLOAT, product.node
        )
        self.graph.insert_after(product.node, [quantize, dequantize])
        for node, place in readers:
            node.replace_input_with(place, dequantize.outputs[0])
        if is_output:
            self.graph.outputs[list(self.graph.outputs).index(value)] = dequantize.outputs[0]
            value.name = f"{name}_float"
        self.values[dequantize.outputs[0]] = dequantize.outputs[0]  # already quantized: its readers need no more

    def _bias(self, product: Product, input_scale: onnx_ir.Value, scale: onnx_ir.Value) -> None:
        """In int32 at the scale of the products, as ONNX Runtime's int8 convolution adds it."""
        node = product.node
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is None or bias.const_value is None:
            return
        name = f"{bias.name}_{node.outputs[0].name}"
        scales = _array(scale) * _array(input_scale)
        values = np.clip(np.rint(_array(bias) / scales), -(2**31), 2**31 - 1).astype(np.int32)
        inputs = [
            add_initializer(self.graph, f"{name}{QUANTIZED}", values),
            add_initializer(self.graph, f"{name}_scale", scales),
        ]
        dequantize = self._node("DequantizeLinear", inputs, {"axis": 0}, f"{name}_dequantized", bias, FLOAT, node)
        self.graph.insert_before(node, dequantize)
        node.replace_input_with(2, dequantize.outputs[0])

    def _scale(self, value: onnx_ir.Value) -> onnx_ir.Value:
        name = f"{str(value.name).removesuffix('_dequantized')}_scale"
        if name not in self.scales:
            scale = np.array(max(self.ranges[name.removesuffix("_scale")] / LARGEST, TINY), np.float32)
            self.scales[name] = add_initializer(self.graph, name, scale)
        return self.scales[name]

    def _zero(self) -> onnx_ir.Value:
        if self.zero_point is None:
            self.zero_point = add_initializer(self.graph, "quantized_zero", np.array(ZERO_POINT, np.uint8))
        return self.zero_point

    def _node(
        self,
        op_type: str,
        inputs: list[onnx_ir.Value],
        attributes: dict[str, int],
        name: str,
        like: onnx_ir.Value,
        dtype: onnx_ir.DataType,
        module_of: onnx_ir.Node,
    ) -> onnx_ir.Node:
        node = onnx_ir.node(op_type, inputs, attributes)
        node.name = f"{op_type}_{name}"
        node.outputs[0].name, node.outputs[0].shape = name, like.shape
        node.outputs[0].type = onnx_ir.TensorType(dtype)
        node.metadata_props.update(module_of.metadata_props)
        return node


def _array(value: onnx_ir.Value) -> NDArray[np.float32]:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy(), np.float32)
