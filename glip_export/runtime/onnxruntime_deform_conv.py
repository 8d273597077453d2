"""Deformable convolutions of an int8 bundle in operators that ONNX Runtime's CPU provider has in int8.

Its DeformConv is a float one: it writes every sample into a matrix and multiplies that. Here the sampling is a
DeformConv of its own, of weights 0 and 1, and the product an int8 one:

    DeformConv (N, C, H, W) -> samples (N, C*9, H', W') -> QuantizeLinear -> MatMulIntegerToFloat (N, O, H'*W')

The weights are the bundle's int8 ones. A sample is at most as large as the largest pixel that it is made of, times a
mask of 0 to 1, so its scale follows from the input as it is: no calibrated range clips it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from glip_export.graphs.quantized import add_initializer

CONTRIB = "com.microsoft"
GROUPS = ("group", "offset_group")
LEVELS = 127  # of int8 on either side of zero
TOGETHER = 2  # channels a group of the sampling: 2 took 44 ms, 1 took 51 and 4 took 52 (256 channels, 100x152)


def split_deform_convs(model: onnx_ir.Model) -> int:
    """Splits, in place, every 3x3 DeformConv that has an int8 weight and a mask; returns how many.

    Those in several groups, or of an odd number of channels, stay as they are.
    """
    graph = model.graph
    splitter = _Splitter(graph)
    found = [node for node in graph if node.op_type == "DeformConv" and _can_be_split(node)]
    for node in found:
        splitter.split(node)
    if found:
        graph.opset_imports.setdefault(CONTRIB, 1)
        drop_unread(graph)
    return len(found)


def sampling_weight(channels: int) -> NDArray[np.float32]:
    """(channels*9, TOGETHER, 3, 3): output c*9 + t of a grouped convolution is tap t of channel c."""
    outputs = np.arange(channels * 9)
    channel, tap = np.divmod(outputs, 9)
    weight = np.zeros((channels * 9, TOGETHER, 9), np.float32)
    weight[outputs, channel % TOGETHER, tap] = 1
    return weight.reshape(-1, TOGETHER, 3, 3)


class _Splitter:
    """Splits the convolutions of one graph; what several of them share is made once."""

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self._graph = graph
        self._constants: dict[str, onnx_ir.Value] = {}
        self._scales: dict[onnx_ir.Value | None, onnx_ir.Value] = {}

    def split(self, node: onnx_ir.Node) -> None:
        x, weight, offset, bias, mask = node.inputs
        assert x is not None and weight is not None and offset is not None
        pair = _int8_weight(weight)
        assert pair is not None
        quantized, weight_scale = pair
        whole = _array(quantized)  # (O, C, 3, 3), int8
        count, channels = whole.shape[:2]
        if x not in self._scales:
            self._scales[x] = self._scale(node, x)
        scale = self._scales[x]
        tape, name = Tape(), quantized.name
        samples = tape.op(
            "DeformConv",
            [x, self._constant(f"sampling_{channels}", lambda: sampling_weight(channels)), offset, None, mask],
            {**{key: node.attributes[key] for key in node.attributes}, "group": channels // TOGETHER},
            name=f"{node.name}_samples",
        )
        columns = tape.op("QuantizeLinear", [samples, scale, self._constant("int8_zero", lambda: np.int8(0))])
        columns = tape.op(
            "Reshape", [columns, self._constant(f"columns_{channels}", lambda: np.array([0, channels * 9, -1]))]
        )
        rows = tape.op(
            "MatMulIntegerToFloat",
            [
                # VNNI multiplies uint8 by int8, and the first matrix is the uint8 one
                self._constant(f"{name}_rows", lambda: _shifted(whole.reshape(count, -1))),
                columns,
                self._constant("one", lambda: np.float32(1)),
                scale,
                self._constant("uint8_middle", lambda: np.uint8(128)),
            ],
            domain=CONTRIB,
            name=f"{node.name}_product",
        )
        row_scale = self._constant(f"{name}_row_scale", lambda: _array(weight_scale).reshape(-1, 1))
        rows = tape.op("Mul", [rows, row_scale])
        if bias is not None:
            rows = tape.op("Add", [rows, self._constant(f"{bias.name}_rows", lambda: _array(bias).reshape(-1, 1))])
        size = tape.op("Shape", [offset], {"start": 2})
        shape = tape.op("Concat", [self._constant(f"maps_{count}", lambda: np.array([0, count])), size], {"axis": 0})
        maps = tape.op("Reshape", [rows, shape])
        onnx_ir.convenience.replace_nodes_and_values(self._graph, node, [node], tape.nodes, node.outputs, [maps])

    def _scale(self, node: onnx_ir.Node, x: onnx_ir.Value) -> onnx_ir.Value:
        """The scale of x's int8 values, a scalar computed before the node, and not zero."""
        tape, keep = Tape(), {"keepdims": 0}
        most, least = tape.op("ReduceMax", [x], keep), tape.op("ReduceMin", [x], keep)
        tiny = self._constant("smallest_magnitude", lambda: np.float32(1e-20))
        magnitude = tape.op("Max", [most, tape.op("Neg", [least]), tiny])
        scale = tape.op("Div", [magnitude, self._constant("int8_levels", lambda: np.float32(LEVELS))])
        self._graph.insert_before(node, tape.nodes)
        return scale

    def _constant(self, name: str, make: Callable[[], NDArray | np.generic]) -> onnx_ir.Value:
        if name not in self._constants:
            self._constants[name] = add_initializer(self._graph, f"{name}.split", np.asarray(make()))
        return self._constants[name]


def drop_unread(graph: onnx_ir.Graph) -> None:
    """Removes nodes and initializers that nothing reads."""
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _can_be_split(node: onnx_ir.Node) -> bool:
    weight = node.inputs[1]
    if weight is None or len(node.inputs) < 5 or node.inputs[4] is None:
        return False
    pair = _int8_weight(weight)
    if pair is None or any(node.attributes[name].as_int() != 1 for name in GROUPS if name in node.attributes):
        return False
    shape = _array(pair[0]).shape
    return shape[2:] == (3, 3) and shape[1] % TOGETHER == 0


def _int8_weight(weight: onnx_ir.Value) -> tuple[onnx_ir.Value, onnx_ir.Value] | None:
    """The stored int8 values and the scales, one an output channel, that a DequantizeLinear makes a weight of."""
    maker = weight.producer()
    if maker is None or maker.op_type != "DequantizeLinear" or len(maker.inputs) > 2:  # a zero point is not ours
        return None
    values, scale = maker.inputs
    if values is None or scale is None or values.const_value is None or scale.const_value is None:
        return None
    of_rows = maker.attributes["axis"].as_int() == 0 if "axis" in maker.attributes else False
    return (values, scale) if of_rows and _array(values).dtype == np.int8 else None


def _shifted(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """int8 as uint8 around 128."""
    return (values.astype(np.int16) + 128).astype(np.uint8)


def _array(value: onnx_ir.Value) -> NDArray:
    assert value.const_value is not None
    return value.const_value.numpy()
