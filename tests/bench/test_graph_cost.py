"""Multiply-adds: exact on small graphs, and on the small GLIP where they can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from glip_export.bench.graph_cost import bundle_gmac, count_macs
from glip_export.bundle import Bundle
from glip_export.errors import GlipExportError
from glip_export.graphs.multiply_adds import node_macs


def write_graph(path: Path) -> None:
    """Convolution (grouped, stride 2), deformable convolution, MatMul with a constant, MatMul of two values, Gemm."""
    random = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)

    def value(name: str, *shape: int | str) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("DeformConv", ["x", "dw", "offset", "db", "mask"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("MatMul", ["m", "mw"], ["c"]),
        helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["c", "t"], ["d"]),
        helper.make_node("Gemm", ["g", "gw"], ["e"], transA=1, transB=1),
        helper.make_node("Relu", ["e"], ["f"]),
    ]
    inputs = [
        value("x", "B", 4, 10, 12), value("offset", "B", 18, 10, 12), value("mask", "B", 9, 10, 12),
        value("m", "B", 5, 6), value("g", 7, 3),
    ]  # fmt: skip
    outputs = [value("a", "B", 8, 5, 6), value("b", "B", 6, 10, 12), value("d", "B", 5, 5), value("f", 3, 2)]
    constants = [
        constant("w", 8, 2, 3, 3), constant("dw", 6, 4, 3, 3), constant("db", 6), constant("mw", 6, 9),
        constant("gw", 2, 7),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "small", inputs, outputs, constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_small_graph_is_counted_exactly(tmp_path: Path, batch: int) -> None:
    write_graph(tmp_path / "small.onnx")
    shapes = {"x": (batch, 4, 10, 12), "offset": (batch, 18, 10, 12), "mask": (batch, 9, 10, 12), "m": (batch, 5, 6)}
    feed = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    feed["g"] = np.ones((7, 3), np.float32)
    convolution = 8 * 5 * 6 * (4 // 2) * 9
    deformable = 6 * 10 * 12 * 4 * 9
    products = 5 * 6 * 9 + 5 * 9 * 5
    gemm = 3 * 7 * 2
    assert count_macs(tmp_path / "small.onnx", feed) == batch * (convolution + deformable + products) + gemm
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]  # the profile is gone


def test_elementwise_operators_count_nothing_and_unknown_products_are_refused() -> None:
    assert node_macs("Softmax", [[2, 8, 100, 7]], [[2, 8, 100, 7]]) == 0
    with pytest.raises(GlipExportError, match="Einsum"):
        node_macs("Einsum", [[2, 3], [3, 4]], [[2, 4]])


def test_the_text_encoder_has_the_textbook_count(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    bert, tokens = bundle.config.text.bert, 9
    layer = tokens * (4 * bert.hidden_size**2 + 2 * bert.hidden_size * bert.intermediate_size)
    attention = 2 * tokens**2 * bert.hidden_size
    expected = bert.num_hidden_layers * (layer + attention) / 1e9
    assert bundle_gmac(bundle, "text_encoder", (64, 64), tokens) == pytest.approx(expected, rel=1e-12)


def test_more_names_on_the_same_tokens_cost_one_product_of_positions_tokens_and_names(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, verify=False)
    two, six = (bundle_gmac(bundle, "fusion_head", (64, 96), 5, names) for names in (2, 6))
    positions = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1 * 1
    assert six - two == pytest.approx(positions * 5 * 4 / 1e9, rel=1e-6)
