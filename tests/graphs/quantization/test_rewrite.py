"""The QDQ form: what is in it, what it computes, and that it reads back as the graph that it stands for."""

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from glip_export.graphs.modules import ModuleGraph
from glip_export.graphs.quantization.rewrite import ZERO_POINT, activations, quantized, quantized_weight
from glip_export.graphs.quantized import is_quantized, without_quantization
from tests.graphs.quantization.quantizable_graph import inputs, quantizable_graph

RANGES = {"embedding": 4.0, "image": 4.0, "map": 90.0}


@pytest.fixture(scope="module")
def model():
    return quantized(quantizable_graph(), RANGES)


def test_activations_are_the_products_inputs_and_a_convolutions_result():
    assert activations(quantizable_graph()) == ["embedding", "image", "map"]


def test_is_valid_and_close_to_float(model):
    outputs, expected = _run(model), _run(quantizable_graph())
    assert set(outputs) == {"text", "map", "moved"}
    for name, value in expected.items():
        error = np.sqrt(((outputs[name] - value) ** 2).mean() / (value**2).mean())
        assert 1e-4 < error < 0.03, name


def test_weights_are_int8_per_channel_and_activations_uint8_around_128(model):
    constants = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    large = {name for name, value in constants.items() if value.size >= 1024}
    assert large == {"table_quantized", "layer_quantized", "kernel_quantized", "deformed_quantized"}
    assert all(constants[name].dtype == np.int8 for name in large)
    assert constants["layer_scale"].shape == (32,) and constants["kernel_scale"].shape == (48,)
    quantizers = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    assert {node.inputs[0].name for node in quantizers} == {"embedding", "image", "map_float"}
    for node in quantizers:
        assert node.inputs[2].const_value.numpy() == ZERO_POINT and node.inputs[2].dtype == onnx_ir.DataType.UINT8
        assert node.inputs[1].shape == onnx_ir.Shape([])


def test_deformable_convolution_reads_float_activations(model):
    (node,) = [node for node in model.graph if node.op_type == "DeformConv"]
    assert node.inputs[1].name == "deformed_dequantized" and node.inputs[2].name == "offset"


def test_table_is_gathered_as_int8(model):
    (gather,) = [node for node in model.graph if node.op_type == "Gather"]
    assert gather.inputs[0].dtype == onnx_ir.DataType.INT8
    assert gather.outputs[0].name == "embedding_rows"


def test_keeps_modules_float_that_are_asked_for():
    model = quantized(quantizable_graph(), RANGES, lambda product: product.module.startswith("fpn"))
    assert "kernel" in model.graph.initializers and "layer" not in model.graph.initializers
    assert_array_equal(_run(model)["map"], _run(quantizable_graph())["map"])


def test_modules_with_int8_weights_are_told_from_float_ones():
    whole = ModuleGraph(quantized(quantizable_graph(), RANGES)).quantized
    kept = ModuleGraph(quantized(quantizable_graph(), RANGES, lambda product: product.module.startswith("fpn")))
    assert whole - kept.quantized == {module for module in whole if module.startswith("fpn")} != set()
    assert kept.quantized and not ModuleGraph(quantizable_graph()).quantized


def test_reads_back_as_float(model):
    original, plain = quantizable_graph(), without_quantization(model)
    assert is_quantized(model) and not is_quantized(plain) and not is_quantized(original)
    assert [node.op_type for node in plain.graph] == [node.op_type for node in original.graph]
    assert [[value.name for value in node.inputs] for node in plain.graph][1:3] == [
        ["embedding", "layer"],
        ["image", "kernel", "kernel_bias_map"],
    ]
    assert [value.name for value in plain.graph.outputs] == ["text", "map", "moved"]
    for name in ("table", "layer", "kernel", "deformed"):
        weight = original.graph.initializers[name].const_value.numpy()
        scale = model.graph.initializers[f"{name}_scale"].const_value.numpy().max()
        assert_allclose(plain.graph.initializers[name].const_value.numpy(), weight, atol=scale * 0.51)
    for name, value in _run(plain).items():
        expected = _run(original)[name]
        assert np.abs(value - expected).max() < 0.02 * np.abs(expected).max()
    assert is_quantized(model)  # the given model was not changed


def test_quantized_weight_spares_channels_of_zeros():
    values, scale = quantized_weight(np.array([[0, 1.0, -254.0], [0, -1.0, 127.0]], np.float32), 1)
    assert_array_equal(values, [[0, 127, -127], [0, -127, 64]])
    assert_allclose(scale, [1e-12, 1 / 127, 2.0], rtol=1e-6)


def test_same_inputs_give_the_same_bytes():
    first, second = (quantized(quantizable_graph(), RANGES) for _ in range(2))
    assert onnx_ir.to_proto(first).SerializeToString() == onnx_ir.to_proto(second).SerializeToString()


def _run(model: onnx_ir.Model) -> dict[str, np.ndarray]:
    content = onnx_ir.to_proto(model).SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs()), strict=True))
