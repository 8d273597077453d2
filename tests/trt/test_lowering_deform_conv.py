"""Deformable convolutions as columns and a product, against the model's own function."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from glip_export import GlipExportError
from glip_export.model.graph_ops import modulated_deform_conv
from glip_export.trt.lower_deform_conv import lower_deform_conv
from glip_export.trt.lowering import with_reference_functions
from glip_export.trt.nodes import DEFORM_IM2COL

CHANNELS, FILTERS = 4, 5
FORM = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "offset_group": 1}


def convolution(stride: int, dtype: int = TensorProto.FLOAT, **attributes: object) -> onnx_ir.Model:
    """One DeformConv of x, offset and mask; two more use its weight: a DeformConv on the same, and a Conv."""
    rng = np.random.default_rng(0)
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    weight = rng.standard_normal((FILTERS, CHANNELS, 3, 3)).astype(numpy_type)
    bias = rng.standard_normal(FILTERS).astype(numpy_type)
    form = {**FORM, "strides": [stride, stride], **attributes}
    nodes = [
        helper.make_node("DeformConv", ["x", "w", "offset", "b", "mask"], ["first"], "one", **form),
        helper.make_node("DeformConv", ["x", "w", "offset", "b", "mask"], ["second"], "two", **form),
        helper.make_node("Conv", ["x", "w", "b"], ["plain"], "three", pads=[1, 1, 1, 1]),
    ]
    inputs = {"x": ["B", CHANNELS, "H", "W"], "offset": ["B", 18, "Ho", "Wo"], "mask": ["B", 9, "Ho", "Wo"]}
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [
            helper.make_tensor_value_info(name, dtype, ["B", FILTERS, None, None])
            for name in ("first", "second", "plain")
        ],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    opset = 22 if dtype == TensorProto.BFLOAT16 else 20
    return onnx_ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def run(model: onnx_ir.Model, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> list[np.ndarray]:
    proto = onnx_ir.to_proto(with_reference_functions(model))
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = {"x": x.numpy(), "offset": offset.numpy(), "mask": mask.numpy()}
    return session.run(None, arrays)


def sampled(stride: int, spread: float, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """x, offset, mask; offsets of about `spread` pixels, some whole steps that end on pixels and on the border."""
    torch.manual_seed(3)
    x = torch.randn(2, CHANNELS, 7, 9)
    height, width = (7 + stride - 1) // stride, (9 + stride - 1) // stride
    offset = torch.randn(2, 18, height, width) * spread
    offset[:, :, 0, 0], offset[:, :, 0, 1] = 1.0, -1.0
    return x.to(dtype), offset.to(dtype), torch.rand(2, 9, height, width).to(dtype)


def expected(model: onnx_ir.Model, arrays: tuple[torch.Tensor, ...], stride: int) -> np.ndarray:
    weight, bias = (torch.from_numpy(model.graph.initializers[name].const_value.numpy().copy()) for name in "wb")
    return modulated_deform_conv(*(array.float() for array in arrays), weight.float(), bias.float(), stride).numpy()


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("spread", [0.0, 0.7, 5.0, 1e6, 1e30])
def test_equals_the_model(native: bool, stride: int, spread: float) -> None:
    model, arrays = convolution(stride), sampled(stride, spread)
    wanted = expected(model, arrays, stride)
    lower_deform_conv(model, native)
    for given in run(model, *arrays)[:2]:
        np.testing.assert_allclose(given, wanted, atol=5e-5)


@pytest.mark.parametrize("native", [False, True])
def test_half_precision_positions_are_float32(native: bool) -> None:
    model, arrays = convolution(1, TensorProto.FLOAT16), sampled(1, 2.0, torch.float16)
    wanted = expected(model, arrays, 1)
    lower_deform_conv(model, native)
    given = run(model, *arrays)[0]
    assert given.dtype == np.float16
    np.testing.assert_allclose(given.astype(np.float32), wanted, atol=0.02)  # half rounds columns of 36 terms


def test_the_size_is_the_offsets_not_the_maps() -> None:
    """The raw-memory rule gives maps of another size than the offsets were made for."""
    model = convolution(1)
    x, offset, mask = sampled(1, 1.0)
    x = x[:, :, :4, :5].contiguous()
    wanted = expected(model, (x, offset, mask), 1)
    lower_deform_conv(model, native=False)
    given = run(model, x, offset, mask)[0]
    assert given.shape == (2, FILTERS, 7, 9)
    np.testing.assert_allclose(given, wanted, atol=5e-5)


def test_bfloat16_columns_are_made_in_float32() -> None:
    model = convolution(2, TensorProto.BFLOAT16)
    lower_deform_conv(model, native=False)
    columns = [node for node in model.graph if node.op_type == DEFORM_IM2COL]
    assert [node.attributes["stride"].as_int() for node in columns] == [2]  # equal nodes became one
    for value in columns[0].inputs:
        cast = value.producer()
        assert cast.op_type == "Cast" and cast.attributes["to"].as_int() == TensorProto.FLOAT
    (back,) = columns[0].outputs[0].consumers()
    assert back.op_type == "Cast" and back.attributes["to"].as_int() == TensorProto.BFLOAT16
    assert model.graph.initializers["w.flattened"].dtype == onnx_ir.DataType.BFLOAT16
    onnx.checker.check_model(onnx_ir.to_proto(with_reference_functions(model)), full_check=True)


def test_a_weight_that_others_use_stays() -> None:
    model, arrays = convolution(1), sampled(1, 0.5)
    weight = model.graph.initializers["w"].const_value.numpy().copy()
    lower_deform_conv(model, native=True)
    assert sorted(model.graph.initializers) == ["b", "w", "w.flattened"]
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weight)
    plain = torch.nn.functional.conv2d(
        arrays[0],
        torch.from_numpy(weight),
        torch.from_numpy(model.graph.initializers["b"].const_value.numpy().copy()),
        padding=1,
    )
    np.testing.assert_allclose(run(model, *arrays)[2], plain.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("pads", [0, 0, 0, 0]), ("dilations", [2, 2]), ("offset_group", 2), ("kernel_shape", [1, 1])]
)
def test_another_form_is_refused(name: str, value: object) -> None:
    with pytest.raises(GlipExportError, match=f"one: a DeformConv whose {name} is"):
        lower_deform_conv(convolution(1, **{name: value}), native=False)


def test_a_computed_weight_is_refused() -> None:
    model = convolution(1)
    weight = model.graph.initializers.pop("w")
    weight.const_value = None
    with pytest.raises(GlipExportError, match="w: the weight of a DeformConv must be a stored one"):
        lower_deform_conv(model, native=False)
