"""The graphs of an int8 bundle rewritten for ONNX Runtime's CPU provider: the same numbers in what it is fast at."""

from __future__ import annotations

import onnx_ir
from onnx_ir.tape import Tape

from glip_export.runtime.onnxruntime_deform_conv import CONTRIB, drop_unread, split_deform_convs
from glip_export.runtime.onnxruntime_terms import merge_terms


def faster(model: onnx_ir.Model) -> onnx_ir.Model:
    """The model, changed in place.

    Deformable convolutions as samples and an int8 product, the mean of their terms in fewer passes, and biases added
    by the int8 products themselves.
    """
    split_deform_convs(model)
    merge_terms(model)
    add_biases(model)
    drop_unread(model.graph)
    return model


def add_biases(model: onnx_ir.Model) -> int:
    """Makes, in place, each int8 matrix product with a bias one MatMulIntegerToFloat; returns how many.

    ONNX Runtime makes that operator of the product itself, but leaves the bias to an Add of its own.
    """
    graph, merged = model.graph, 0
    for add in list(graph):
        if add.op_type != "Add" or add.outputs[0].is_graph_output():
            continue
        for product, bias in (add.inputs, add.inputs[::-1]):
            operands = _operands(product)
            if operands is None or not _fits(bias, operands[1]):
                continue
            tape = Tape()
            (x, x_scale, zero), (weight, weight_scale) = operands
            result = tape.op(
                "MatMulIntegerToFloat", [x, weight, x_scale, weight_scale, zero, None, bias], domain=CONTRIB
            )
            onnx_ir.convenience.replace_nodes_and_values(graph, add, [add], tape.nodes, add.outputs, [result])
            merged += 1
            break
    if merged:
        graph.opset_imports.setdefault(CONTRIB, 1)
        drop_unread(graph)
    return merged


def _operands(product: onnx_ir.Value | None) -> tuple[list[onnx_ir.Value], list[onnx_ir.Value]] | None:
    """Of a MatMul that one node reads: uint8 values, scale, zero point; the stored int8 weight and its scales."""
    node = None if product is None else product.producer()
    if node is None or node.op_type != "MatMul" or len(node.outputs[0].uses()) != 1:
        return None
    pairs = []
    for value, count in zip(node.inputs, (3, 2), strict=True):
        maker = None if value is None else value.producer()
        if maker is None or maker.op_type != "DequantizeLinear" or len(maker.inputs) != count:
            return None
        pairs.append([part for part in maker.inputs if part is not None])
    (_, scale, zero), (weight, weight_scale) = pairs
    stored = [value.const_value for value in (scale, zero, weight, weight_scale)]
    if any(value is None for value in stored) or zero.dtype != onnx_ir.DataType.UINT8:
        return None
    columns = weight.const_value is not None and len(weight.const_value.shape) == 2
    return (pairs[0], pairs[1]) if columns and weight.dtype == onnx_ir.DataType.INT8 else None


def _fits(bias: onnx_ir.Value | None, weight: list[onnx_ir.Value]) -> bool:
    """Whether the bias is stored, one number a column of the weight, as the scales are."""
    stored = [None if value is None else value.const_value for value in (bias, *weight)]
    shapes = [None if value is None else tuple(value.shape) for value in stored]
    return shapes[1] is not None and shapes[0] == shapes[2] == shapes[1][1:]
