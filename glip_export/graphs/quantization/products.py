"""What of a graph can be int8: products with weights, tables, and weights of deformable convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir

from glip_export.graphs.modules import MODULE_KEY

SMALLEST = 1024  # elements of a weight that is worth it
LARGE = 8192  # of one that is only stored as int8
# Of a convolution that is int8. What has fewer stays float, weights too: those are the offsets, the boxes and the
# pixels, which want their digits and weigh little, and ONNX Runtime's int8 convolution takes longer than its float one
# there. One whose weight is stored in int8 takes twice as long as well: ONNX Runtime reorders constants alone.
CHANNELS_OUT, CHANNELS_IN = 48, 16
_STORED = ("Reshape", "Add")  # read bi-attention's folded weights, and Swin's biases of relative positions


@dataclass(frozen=True, eq=False)
class Product:
    """A node with a weight that can be int8.

    activation: whether its first input is quantized with it; else it is the weight alone.
    result: whether its output is as well, without which ONNX Runtime has no int8 convolution.
    """

    node: onnx_ir.Node
    module: str
    weight: onnx_ir.Value
    place: int  # of the weight among the node's inputs
    axis: int  # of its output channels
    activation: bool
    result: bool = False

    @property
    def input(self) -> onnx_ir.Value:
        """What the weight is multiplied with."""
        value = self.node.inputs[0]
        assert value is not None
        return value


def products(graph: onnx_ir.Graph) -> Iterator[Product]:
    """All that can be int8, in the order it runs."""
    for node in graph:
        place = 0 if node.op_type in ("Gather", "Reshape") else 1
        weight = node.inputs[place] if len(node.inputs) > place else None
        if weight is None or weight.const_value is None or not weight.is_initializer():
            continue
        if weight.dtype != onnx_ir.DataType.FLOAT or weight.const_value.size < SMALLEST:
            continue
        form = _form(node, weight)
        if form is not None:
            module = node.metadata_props.get(MODULE_KEY, "")
            axis, activation, result = form
            yield Product(node, module, weight, place, axis, activation, result)


def _form(node: onnx_ir.Node, weight: onnx_ir.Value) -> tuple[int, bool, bool] | None:
    """The axis of the output channels, whether the activation and whether the result are quantized."""
    axes = len(weight.const_value.shape)  # type: ignore[union-attr]
    if node.op_type == "MatMul" and axes == 2:
        return 1, True, False
    if node.op_type == "Gemm" and axes == 2:
        transposed = "transB" in node.attributes and node.attributes["transB"].as_int() == 1
        return (0 if transposed else 1), False, False
    if node.op_type == "Conv":
        out, into = weight.const_value.numpy().shape[:2]  # type: ignore[union-attr]
        return (0, True, True) if out >= CHANNELS_OUT and into >= CHANNELS_IN else None
    if node.op_type == "DeformConv":
        return 0, False, False
    if node.op_type == "Gather" and axes == 2:
        return 1, False, False
    if node.op_type in _STORED and axes >= 2 and weight.const_value.size >= LARGE:  # type: ignore[union-attr]
        return 0, False, False
    return None
