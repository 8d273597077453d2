"""Strongly typed graphs: their types, their casts, their constants, and what the float32 islands are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import GRAPHS, GraphSpec, TensorSpec, graphs_of
from glip_export.graphs.emulation import rounded
from glip_export.graphs.islands import ISLANDS, is_moving
from glip_export.graphs.precision import LOW_TYPES, convert
from glip_export.graphs.type_shares import BF16_OPSET

SPECS = graphs_of(GlipConfig())  # of the published models

FLOAT, FLOAT16, BFLOAT16 = onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16
FLOATS = (FLOAT, FLOAT16, BFLOAT16)
PRODUCTS = ("Conv", "DeformConv", "Gemm", "MatMul")
SMALL = GraphSpec("small", (TensorSpec("x", "float32", ("B", 4)),), (TensorSpec("y", "float32", ("B", 4)),))


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=list(GRAPHS))
def pair(request: pytest.FixtureRequest, precision: str, tiny_bundle: Path) -> tuple[onnx_ir.Model, onnx_ir.Model]:
    """One of the small GLIP's graphs, before and after."""
    model = onnx_ir.load(tiny_bundle / f"{request.param}.onnx")
    return model, convert(model, SPECS[request.param], precision)


def test_every_node_has_inputs_of_one_float_type(pair: tuple[onnx_ir.Model, onnx_ir.Model], precision: str) -> None:
    _, converted = pair
    low = LOW_TYPES[precision]
    for node in converted.graph:
        floats = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None and value.dtype in FLOATS}
        if node.op_type == "Cast":
            assert node.outputs[0].dtype == node.attributes["to"].as_int()
        elif node.op_type != "Shape":
            assert len(floats) <= 1 and floats <= {FLOAT, low}, node
        if node.op_type in PRODUCTS and not any(value.name == "class_map" for value in node.inputs):
            assert floats == {low}, node


def test_it_is_valid_onnx(pair: tuple[onnx_ir.Model, onnx_ir.Model], precision: str, tmp_path: Path) -> None:
    _, converted = pair
    checked = converted.clone()
    if precision == "bf16":
        checked.opset_imports[""] = BF16_OPSET  # at 20 the standard has no bfloat16 Conv; TensorRT's parser has
    onnx_ir.save(checked, tmp_path / "graph.onnx", external_data="graph.data")
    onnx.checker.check_model(str(tmp_path / "graph.onnx"), full_check=True)
    if precision == "fp16":
        onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])


def test_inputs_outputs_and_the_given_model_are_as_before(pair: tuple[onnx_ir.Model, onnx_ir.Model]) -> None:
    model, converted = pair
    for ours, theirs in ((converted.graph.inputs, model.graph.inputs), (converted.graph.outputs, model.graph.outputs)):
        assert [(v.name, v.dtype, str(v.shape)) for v in ours] == [(v.name, v.dtype, str(v.shape)) for v in theirs]
    values = [*model.graph.initializers.values(), *(value for node in model.graph for value in node.outputs)]
    assert {value.dtype for value in values} & set(FLOATS) == {FLOAT}


def test_a_value_is_cast_once_and_never_back(pair: tuple[onnx_ir.Model, onnx_ir.Model]) -> None:
    _, converted = pair
    border = [node for node in converted.graph if node.op_type == "Cast" and node.inputs[0].dtype in FLOATS]
    assert border
    cast = [(node.inputs[0], node.attributes["to"].as_int()) for node in border]
    assert len(set(cast)) == len(cast)
    assert all(node.inputs[0].dtype != node.outputs[0].dtype for node in border)
    for node in border:
        source = node.inputs[0].producer()
        while source is not None and is_moving(source):
            source = source.inputs[0].producer()
        assert source not in border, f"{node.inputs[0].name} was just cast"


def test_weights_are_finite_and_used(pair: tuple[onnx_ir.Model, onnx_ir.Model]) -> None:
    _, converted = pair
    for value in converted.graph.initializers.values():
        assert value.uses()
        if value.dtype in FLOATS:
            assert np.isfinite(value.const_value.numpy().astype(np.float32)).all(), value.name


def test_fp32_changes_nothing(tiny_bundle: Path) -> None:
    model = onnx_ir.load(tiny_bundle / "text_encoder.onnx")
    same = convert(model, SPECS["text_encoder"], "fp32")
    assert [node.op_type for node in same.graph] == [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("graph", "precision", "words"),
    [
        ("text_encoder", "int8", "no precision 'int8': choose one of fp32, fp16, bf16"),
        ("vision_backbone", "fp16", "not the graph vision_backbone"),
    ],
)
def test_what_cannot_be_converted_is_told(tiny_bundle: Path, graph: str, precision: str, words: str) -> None:
    model = onnx_ir.load(tiny_bundle / "text_encoder.onnx")
    with pytest.raises(GlipExportError, match=words):
        convert(model, SPECS[graph], precision)


def test_a_converted_graph_is_not_converted_again(tiny_bundle: Path) -> None:
    spec = SPECS["text_encoder"]
    half = convert(onnx_ir.load(tiny_bundle / "text_encoder.onnx"), spec, "fp16")
    with pytest.raises(GlipExportError, match="only a float32 graph"):
        convert(half, spec, "fp16")


class Small:
    """A graph of one (B, 4) input x and output y, written operator by operator."""

    def __init__(self) -> None:
        self.x = onnx_ir.val("x", FLOAT, ("B", 4))
        self.nodes: list[onnx_ir.Node] = []
        self.constants: list[onnx_ir.Value] = []

    def constant(self, array: object, dtype: type = np.float32) -> onnx_ir.Value:
        tensor = onnx_ir.tensor(np.array(array, dtype), name=f"constant{len(self.constants)}")
        self.constants.append(onnx_ir.val(tensor.name, tensor.dtype, tensor.shape, const_value=tensor))
        return self.constants[-1]

    def op(self, name: str, *inputs: onnx_ir.Value | None, dtype: onnx_ir.DataType = FLOAT, **attributes: object):
        node = onnx_ir.node(name, list(inputs), attributes)
        node.outputs[0].name, node.outputs[0].type = f"value{len(self.nodes)}", onnx_ir.TensorType(dtype)
        self.nodes.append(node)
        return node.outputs[0]

    def model(self, y: onnx_ir.Value) -> onnx_ir.Model:
        y.name, y.shape = "y", onnx_ir.Shape(["B", 4])
        graph = onnx_ir.Graph(
            [self.x], [y], nodes=self.nodes, initializers=self.constants, opset_imports={"": 20}, name="small"
        )
        return onnx_ir.Model(graph, ir_version=10)


def run(model: onnx_ir.Model, x: object) -> np.ndarray:
    """Float32 as it is, lower types emulated."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    proto = onnx_ir.to_proto(rounded(model)).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array(x, np.float32)})[0]


def test_the_emulation_rounds_every_value(precision: str) -> None:
    """x * x / x: in float16 the square of 300 is infinite, in bfloat16 it has 8 bits."""
    small = Small()
    inner = small.op("MatMul", small.x, small.constant(np.eye(4)))
    squared = small.op("Mul", inner, inner)
    model = small.model(small.op("Div", squared, inner))
    x = np.float32([[300, 3, 1.001, 1 / 3]])
    low = LOW_TYPES[precision].numpy()
    with np.errstate(over="ignore"):
        expected = x.astype(low)
        expected = (expected * expected) / expected
    found = run(convert(model, SMALL, precision, islands=()), x)
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    if precision == "fp16":
        assert np.isinf(found[0, 0])


def test_values_beyond_the_type_become_its_largest() -> None:
    small = Small()
    mask = small.constant([[-9e15, -np.inf, 70000, 0]])
    scores = small.op("Add", small.op("MatMul", small.x, small.constant(np.eye(4))), mask)
    model = small.model(small.op("MatMul", small.op("Softmax", scores, axis=-1), small.constant(np.eye(4))))
    converted = convert(model, SMALL, "fp16", islands=())
    (clamped,) = (v for v in converted.graph.initializers.values() if v.name.startswith(mask.name))
    np.testing.assert_array_equal(clamped.const_value.numpy(), np.float16([[-65504, -65504, 65504, 0]]))
    assert run(converted, [[40, 40, 0, 0]])[0].tolist() == [0, 0, 1, 0]


def test_weights_that_are_not_numbers_are_told() -> None:
    small = Small()
    model = small.model(small.op("MatMul", small.x, small.constant(np.full((4, 4), np.nan))))
    with pytest.raises(GlipExportError, match="constant0 hold NaN"):
        convert(model, SMALL, "fp16")


def test_a_weight_read_in_both_types_is_held_in_both() -> None:
    small = Small()
    shared = small.constant(np.eye(4) / 3)
    low = small.op("MatMul", small.x, shared)
    model = small.model(small.op("Add", low, small.op("ReduceMax", shared, keepdims=1)))
    converted = convert(model, SMALL, "fp16")
    assert [value.dtype for value in converted.graph.initializers.values()] == [FLOAT, FLOAT16]
    assert run(converted, np.zeros((1, 4)))[0, 0] == np.float32(1 / 3)


def unit_vectors(small: Small) -> onnx_ir.Model:
    """x over its length, at least 1e-12, as GLIP normalises its text."""
    text = small.op("MatMul", small.x, small.constant(np.eye(4)))
    length = small.op("ReduceL2", text, small.constant([1], np.int64), keepdims=1)
    unit = small.op("Div", text, small.op("Clip", length, small.constant(1e-12)))
    return small.model(small.op("MatMul", unit, small.constant(np.eye(4))))


def test_without_its_island_a_zero_vector_is_divided_by_zero() -> None:
    vectors = np.float32([[0, 0, 0, 0], [3, 0, 4, 0], [60000, 60000, 60000, 60000]])
    expected = np.float32([[0, 0, 0, 0], [0.6, 0, 0.8, 0], [0.5, 0.5, 0.5, 0.5]])
    np.testing.assert_allclose(run(convert(unit_vectors(Small()), SMALL, "fp16"), vectors), expected, atol=1e-3)
    without = [name for name in ISLANDS if name not in ("unit vectors", "small constants")]
    broken = run(convert(unit_vectors(Small()), SMALL, "fp16", without), vectors)
    assert np.isnan(broken[0]).all()  # 0 / 0
    assert (broken[2] == 0).all()  # 60000 / infinity


def test_without_its_island_a_mask_shifts_the_score_that_it_leaves_alone(precision: str) -> None:
    """An attention mask of 0 and 1 made of integers, times the type's lowest value, as in the text encoder."""

    def masked(islands: list[str] | None) -> onnx_ir.Model:
        small = Small()
        scores = small.op("MatMul", small.x, small.constant(np.eye(4)))
        padding = small.op("Cast", small.constant([[1, 0, 0, 1]], np.int64), to=FLOAT)
        scores = small.op("Add", scores, small.op("Mul", padding, small.constant(np.finfo(np.float32).min)))
        return convert(small.model(small.op("Softmax", scores, axis=-1)), SMALL, precision, islands)

    found = run(masked(None), [[100, 1, 1, 100]])
    np.testing.assert_allclose(found, [[0, 0.5, 0.5, 0]])
    wide = {node.op_type for node in masked(None).graph if node.outputs[0].dtype == FLOAT}
    assert {"Mul", "Add", "Softmax"} <= wide


def test_a_mask_with_a_learned_bias_is_still_a_mask(precision: str) -> None:
    """As of the text that Swin fuses: of infinities, where all is masked, no softmax is a number."""
    small = Small()
    bias = small.op("Slice", small.constant([[1, 2, 3, 4, 5]]), *(small.constant([n], np.int64) for n in (0, 4, 1)))
    padding = small.op("Cast", small.constant([[1, 1, 1, 1]], np.int64), to=FLOAT)
    mask = small.op("Add", bias, small.op("Mul", padding, small.constant(np.finfo(np.float32).min)))
    scores = small.op("Add", small.op("MatMul", small.x, small.constant(np.eye(4))), mask)
    model = small.model(small.op("MatMul", small.op("Softmax", scores, axis=-1), small.constant(np.eye(4))))
    np.testing.assert_allclose(run(convert(model, SMALL, precision), [[1, 2, 3, 4]]), [[0.25] * 4])


def test_a_stretched_position_embedding_is_not_rounded() -> None:
    small = Small()
    table = small.constant([[[[1 / 3, 1 / 7]]]])
    stretched = small.op("Resize", table, None, None, small.constant([1, 1, 1, 4], np.int64), mode="cubic")
    inner = small.op("MatMul", small.x, small.constant(np.eye(4)))
    flat = small.op("Reshape", stretched, small.constant([1, 4], np.int64))
    model = small.model(small.op("Add", inner, flat))
    (resize,) = (node for node in convert(model, SMALL, "fp16").graph if node.op_type == "Resize")
    assert resize.inputs[0].dtype == resize.outputs[0].dtype == FLOAT
