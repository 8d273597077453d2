"""Each operator of torch:cuda against ONNX Runtime, at the places where the two could differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from glip_export.errors import BackendError
from glip_export.runtime.torch_cuda.functions import are_adjacent, extended, top_k
from glip_export.runtime.torch_cuda.operators import OPERATORS
from glip_export.runtime.torch_cuda.program import Program

X = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
WHOLE = np.arange(-12, 12, dtype=np.int64).reshape(2, 3, 4)
BOOLS = X > 0


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# name: operator, inputs (those named in `constant` are initializers), attributes
CASES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    **{name: (name, [X], {}) for name in ("Abs", "Ceil", "Erf", "Exp", "Floor", "Neg", "Relu", "Sigmoid", "Tanh")},
    **{name: (name, [np.abs(X) + 0.1], {}) for name in ("Log", "Reciprocal", "Softplus", "Sqrt")},
    **{name: (name, [X, X[:, :1] + 1], {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    **{name: (name, [X, X[::-1].copy()], {}) for name in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{f"{name} a number": (name, [X, floats(1.5)], {}) for name in ("Add", "Sub", "Mul", "Div", "Greater")},
    **{f"a number {name}": (name, [floats(1.5), np.abs(X) + 1], {}) for name in ("Add", "Sub", "Mul", "Div", "Pow")},
    "whole Div": ("Div", [WHOLE, ints(5)], {}),
    "Mod": ("Mod", [WHOLE, ints(5)], {}),
    "Equal": ("Equal", [WHOLE, WHOLE[:, ::-1].copy()], {}),
    "Pow": ("Pow", [np.abs(X), floats(2.0)], {}),
    "Not": ("Not", [BOOLS], {}),
    "And": ("And", [BOOLS, BOOLS[::-1].copy()], {}),
    "Or": ("Or", [BOOLS, BOOLS[::-1].copy()], {}),
    "Where": ("Where", [BOOLS, X, floats(-1.0)], {}),
    "Clip": ("Clip", [X, floats(-0.5)[0], floats(0.5)[0]], {}),
    "Clip above": ("Clip", [X, None, floats(0.5)[0]], {}),
    "Gelu": ("Gelu", [X], {}),
    "Cast": ("Cast", [X * 3], {"to": TensorProto.INT64}),
    "Cast to bool": ("Cast", [WHOLE], {"to": TensorProto.BOOL}),
    "CastLike": ("CastLike", [WHOLE, X], {}),
    "Identity": ("Identity", [X], {}),
    "MatMul": ("MatMul", [X, X.transpose(0, 1, 3, 2).copy()], {}),
    "Gemm": ("Gemm", [X[0, 0], X[0, 1], floats(1, 2, 3, 4)], {"transB": 1}),
    "Gemm plain": ("Gemm", [X[0, 0], X[0, 1].T.copy(), floats(1, 2, 3, 4)], {}),
    "Conv": ("Conv", [X, X[:, :, :3, :3].copy(), floats(1, -1)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "Conv in groups": ("Conv", [X, X.reshape(-1, 1, 3, 4)[:6].copy()], {"group": 3, "dilations": [1, 1]}),
    "LayerNormalization": ("LayerNormalization", [X, floats(*range(6)), floats(*range(6))], {"epsilon": 1e-3}),
    "InstanceNormalization": ("InstanceNormalization", [X, floats(1, 2, 3), floats(3, 2, 1)], {"epsilon": 1e-3}),
    "Softmax": ("Softmax", [X], {"axis": 1}),
    **{name: (name, [X, ints(1, 2)], {"keepdims": 0}) for name in ("ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum")},
    "ReduceMin of all": ("ReduceMin", [X], {"keepdims": 1}),
    "TopK": ("TopK", [X, ints(3)], {"axis": -1}),
    "TopK of equals": ("TopK", [np.round(X), ints(4)], {"axis": 2}),
    "Reshape": ("Reshape", [X, ints(0, -1, 2)], {}),
    "Transpose": ("Transpose", [X], {"perm": [2, 0, 3, 1]}),
    "Transpose all": ("Transpose", [X], {}),
    "Concat": ("Concat", [X, X * 2], {"axis": -2}),
    "Split": ("Split", [X, ints(1, 2)], {"axis": 1}),
    "Split in parts": ("Split", [X], {"axis": -1, "num_outputs": 2}),
    "Slice": ("Slice", [X, ints(1, -2), ints(9, 10**18), ints(2, 3), ints(2, 1)], {}),
    "Slice backwards": ("Slice", [X, ints(-1), ints(-(2**63)), ints(3), ints(-2)], {}),
    "Slice of nothing": ("Slice", [X, ints(3), ints(1), ints(2)], {}),
    "Gather": ("Gather", [X, np.array([[0, -1], [1, 1]])], {"axis": 2}),
    "Gather one": ("Gather", [X, np.array(-1)], {"axis": 1}),
    "GatherElements": ("GatherElements", [X, (WHOLE[..., None] % 3).repeat(6, 3)], {"axis": 1}),
    "Squeeze": ("Squeeze", [X[:, :1], ints(1)], {}),
    "Squeeze all": ("Squeeze", [X[:1, :1]], {}),
    "Unsqueeze": ("Unsqueeze", [X, ints(0, -1)], {}),
    "Expand": ("Expand", [X[:, :, :1], ints(3, 2, 1, 5, 6)], {}),
    "Tile": ("Tile", [X, ints(1, 2, 1, 2)], {}),
    "Pad": ("Pad", [X, ints(0, 0, 1, 2, 0, 1, 0, 3), floats(7)[0]], {}),
    "Pad of axes": ("Pad", [X, ints(1, 2), None, ints(-1)], {}),
    "Range": ("Range", [np.array(2), np.array(11), np.array(3)], {}),
    "ConstantOfShape": ("ConstantOfShape", [ints(2, 3)], {"value": onnx.numpy_helper.from_array(ints(4), "four")}),
    "Shape": ("Shape", [X], {"start": 1, "end": -1}),
    "Resize nearest": (
        "Resize",
        [X, None, None, ints(2, 3, 9, 11)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "Resize linear": (
        "Resize",
        [X, None, floats(1, 1, 2, 1.5)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    "Resize cubic": ("Resize", [X, None, None, ints(2, 3, 9, 11)], {"mode": "cubic"}),
}  # fmt: skip
STATIC = {name: operator.static for name, operator in OPERATORS.items()}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name: str) -> None:
    op_type, arrays, attributes = CASES[name]
    model, feed = graph_of(op_type, arrays, attributes)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    program = Program(onnx_ir.from_proto(model), torch.device("cpu"))
    inputs = {key: torch.from_numpy(np.asarray(array)) for key, array in feed.items()}
    plan = program.plan(tuple(tuple(array.shape) for array in feed.values()))
    for turn in ("traced", "again"):
        results = plan.run(inputs)
        assert len(results) == len(expected)
        for ours, theirs in zip(results, expected, strict=True):
            assert ours.numpy().dtype == theirs.dtype and ours.shape == theirs.shape, turn
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5, err_msg=turn)


def test_every_operator_has_a_case() -> None:
    ours = {name for name in OPERATORS if name.startswith("Glip")}  # tests/plugins, and the session's tests
    assert {case[0] for case in CASES.values()} | ours == set(OPERATORS)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_parts_of_a_split_are_joined_without_a_copy(axis: int) -> None:
    x = torch.arange(120.0).reshape(4, 6, 5).permute(1, 0, 2)
    parts = x.split([1, 2, x.shape[axis] - 3], dim=axis)
    assert are_adjacent(parts, axis) and not are_adjacent(parts[::2], axis) and not are_adjacent(parts[::-1], axis)
    joined = extended(parts[0], axis, x.shape[axis])
    assert torch.equal(joined, x) and joined.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    "other",
    [
        lambda part: part.clone(),
        lambda part: part[:, :-1],
        lambda part: part.flip(0),
        lambda part: torch.empty_like(part, device="meta"),
    ],
)
def test_what_lies_elsewhere_is_not_adjacent(other: Callable[[torch.Tensor], torch.Tensor]) -> None:
    first, second = torch.arange(24.0).reshape(4, 6).split(2)
    assert are_adjacent((first, second), 0) and not are_adjacent((first, other(second)), 0)


def test_a_node_that_joins_what_a_split_made_copies_nothing() -> None:
    """In the run that is traced and in one that makes the calls; what was changed between is copied."""
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1),
        helper.make_node("Concat", ["a", "b"], ["same"], axis=1),
        helper.make_node("Concat", ["b", "a"], ["other"], axis=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 5]) for name in ("same", "other")]
    sizes = onnx.numpy_helper.from_array(ints(2, 3), "sizes")
    graph = helper.make_graph(nodes, "g", [x], outputs, [sizes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    given = torch.arange(10.0).reshape(2, 5)
    compiled = Program(onnx_ir.from_proto(model), torch.device("cpu"), "eager").plan(((2, 5),))
    assert torch.equal(compiled.run({"x": given})[0], given)
    assert extended not in {step.function for step in compiled._steps}  # a compiler may lay parts out elsewhere
    plan = Program(onnx_ir.from_proto(model), torch.device("cpu")).plan(((2, 5),))
    for _ in range(2):
        same, other = plan.run({"x": given})
        assert torch.equal(same, given) and same.data_ptr() == given.data_ptr()
        assert torch.equal(other, given[:, [2, 3, 4, 0, 1]])


def test_top_k_keeps_the_order_of_equals_and_of_zeros() -> None:
    x = torch.tensor([[0.0, -1.0, 0.5, -0.0, 0.5, -1.0, 3e38, -3e38, 1e-40]])
    values, places = top_k(x, 9, -1)
    assert places.tolist() == [[6, 2, 4, 8, 0, 3, 1, 5, 7]]
    assert torch.equal(values, x[0][places])


def test_a_size_made_of_values_is_refused() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y"], "flatten")], "g", [x, shape], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    program = Program(onnx_ir.from_proto(model), torch.device("cpu"))
    with pytest.raises(BackendError, match=r"node flatten \(Reshape\): input 1 of Reshape made of a picture or prompt"):
        program.plan(((2, 3), (1,))).run({"x": torch.zeros(2, 3), "shape": torch.tensor([6])})


@pytest.mark.parametrize("op_type", ["Einsum", "Conv"])
def test_what_no_glip_has_is_refused_by_name(op_type: str) -> None:
    if op_type == "Einsum":
        model, feed = graph_of("Einsum", [X[0, 0], X[0, 0]], {"equation": "ij,ij->i"})
    else:
        model, feed = graph_of("Conv", [X, X[:, :, :3, :3].copy()], {"pads": [1, 0, 0, 1]})
    program = Program(onnx_ir.from_proto(model), torch.device("cpu"))
    inputs = {key: torch.from_numpy(array) for key, array in feed.items()}
    with pytest.raises(BackendError, match=rf"torch:cuda cannot run the node the_node \({op_type}\)"):
        program.plan(tuple(tuple(array.shape) for array in feed.values())).run(inputs)


def graph_of(op_type: str, arrays: list[Any], attributes: dict[str, Any]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """One node; what the handler takes as lists is a constant of the graph, and so is a single number."""
    static = STATIC.get(op_type, frozenset())
    names = ["" if array is None else f"x{place}" for place, array in enumerate(arrays)]
    inputs, constants, feed = [], [], {}
    for place, (name, array) in enumerate(zip(names, arrays, strict=True)):
        if array is None:
            continue
        if place in static or (array.size == 1 and array.dtype == np.float32):
            constants.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
            feed[name] = array
    results = ["y0", "y1"] if op_type in ("TopK", "Split") else ["y0"]
    outputs = [onnx.ValueInfoProto(name=name) for name in results]
    node = helper.make_node(op_type, names, results, "the_node", **attributes)
    graph = helper.make_graph([node], "one", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model), feed
