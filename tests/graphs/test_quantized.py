"""A quantized graph read as the float one that it stands for."""

from __future__ import annotations

import numpy as np
import onnx_ir
import pytest
from onnx_ir.tape import Tape

from glip_export.graphs.quantized import add_initializer, without_quantization


@pytest.mark.parametrize("taken_by", ["initializer", "node"])
def test_a_weights_old_name_may_be_anothers(taken_by: str) -> None:
    """Where graphs were joined, as in a baked file: `w` is not what `w_quantized` stands for."""
    graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": 21}, name="joined")
    x = onnx_ir.Value(name="x", shape=onnx_ir.Shape([2, 2]), type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT))
    graph.inputs.append(x)
    whole = np.array([[3, -127], [5, 7]], np.int8)
    weight = add_initializer(graph, "w_quantized", whole)
    scale = add_initializer(graph, "w_scale", np.array([0.5, 2], np.float32))
    tape = Tape()
    if taken_by == "initializer":
        other = add_initializer(graph, "w", np.array([[7.0, 7.0]], np.float32))
    else:
        other = tape.op("Relu", [x])
        other.name = "w"
    products = []
    for _ in range(2):  # the weight is shared
        products.append(tape.op("MatMul", [x, tape.op("DequantizeLinear", [weight, scale], {"axis": 1})]))
    result = tape.op("Add", [tape.op("Add", products), other])
    graph.extend(tape.nodes)
    graph.outputs.append(result)

    plain = without_quantization(onnx_ir.Model(graph, ir_version=10)).graph
    weights = [node.inputs[1] for node in plain if node.op_type == "MatMul"]
    assert weights[0] is weights[1] and weights[0] is not None and weights[0].const_value is not None
    np.testing.assert_array_equal(weights[0].const_value.numpy(), whole * np.array([0.5, 2], np.float32))
    names = [*plain.initializers, *(value.name for node in plain for value in node.outputs)]
    assert len(names) == len(set(names)) and "w" in names
