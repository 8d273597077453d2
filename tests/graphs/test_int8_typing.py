"""An int8 graph as TensorRT takes it computes what the int8 graph does."""

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from numpy.testing import assert_allclose

from glip_export.graphs.int8_typing import SMALLEST_SCALE, with_int8_products
from glip_export.graphs.quantization.rewrite import quantized
from glip_export.graphs.quantized import without_quantization
from tests.graphs.quantization.quantizable_graph import inputs, quantizable_graph

RANGES = {"embedding": 4.0, "image": 4.0, "map": 90.0}


@pytest.fixture(scope="module")
def model():
    return quantized(quantizable_graph(), RANGES)


@pytest.fixture(scope="module")
def typed(model):
    return with_int8_products(without_quantization(model), model)


def test_uint8_around_128_becomes_int8_around_0(typed):
    quantizers = [node for node in typed.graph if node.op_type == "QuantizeLinear"]
    assert sorted(node.inputs[0].name for node in quantizers) == ["embedding", "image"]
    for node in quantizers:
        assert node.inputs[2].dtype == onnx_ir.DataType.INT8 and node.inputs[2].const_value.numpy() == 0
    assert not [v for v in typed.graph.initializers.values() if v.dtype == onnx_ir.DataType.UINT8]


def test_products_are_of_integers_and_what_is_only_stored_is_float(typed):
    made = {node.op_type: [value.producer() for value in node.inputs[:2]] for node in typed.graph}
    for op_type in ("MatMul", "Conv"):
        assert [node.op_type for node in made[op_type]] == ["DequantizeLinear"] * 2
    assert made["Gather"][0] is None and made["DeformConv"][1] is None
    assert (
        typed.graph.initializers["table"].dtype == typed.graph.initializers["deformed"].dtype == onnx_ir.DataType.FLOAT
    )


def test_computes_the_same(typed, model):
    found, expected = _run(typed), _run(model)
    assert_allclose(found["text"], expected["text"], atol=1e-5)
    step = RANGES["map"] / 127  # the int8 graph rounds the map as well
    assert np.abs(found["map"] - expected["map"]).max() <= 0.51 * step


def test_scales_that_float16_cannot_tell_are_made_larger():
    model = quantizable_graph()
    layer = model.graph.initializers["layer"]
    weight = layer.const_value.numpy().copy()
    weight[:, 0] *= 1e-5
    layer.const_value = onnx_ir.Tensor(weight, name="layer")
    model = quantized(model, RANGES)
    converted = without_quantization(model)
    for node in converted.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.dtype == onnx_ir.DataType.FLOAT:
                value.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT16)
    typed = with_int8_products(converted, model)
    scale = typed.graph.initializers["layer_int8_scale"].const_value.numpy()
    values = typed.graph.initializers["layer_int8"].const_value.numpy()
    assert scale.dtype == np.float16 and scale.min() >= np.float16(SMALLEST_SCALE)
    assert np.abs(values * scale.astype(np.float32) - weight).max(axis=0)[0] <= 0.51 * SMALLEST_SCALE


def _run(model: onnx_ir.Model) -> dict[str, np.ndarray]:
    content = onnx_ir.to_proto(model).SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs()), strict=True))
