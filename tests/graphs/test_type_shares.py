"""Weights and multiply-adds by type: counted from shapes alone, equal to what ONNX Runtime's profile tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir
import pytest
from compact_oracle import OracleCase

from glip_export.bench.graph_cost import bundle_gmac
from glip_export.bundle import Bundle
from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import GRAPHS, graphs_of, pyramid_axes
from glip_export.graphs.dyconv_node import fuse_dyconv
from glip_export.graphs.precision import convert
from glip_export.graphs.type_shares import DEFAULT_AXES, counted_axes, type_shares

SPECS = graphs_of(GlipConfig())  # of the published models

SMALL = {**pyramid_axes(64, 96), "T": 5, "K": 3}
FLOAT, FLOAT16, INT64 = onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16, onnx_ir.DataType.INT64


def load(folder: Path, name: str) -> onnx_ir.Model:
    return onnx_ir.load(folder / f"{name}.onnx")


@pytest.mark.parametrize("name", GRAPHS)
def test_shapes_alone_give_what_a_run_gives(tiny_bundle: Path, name: str) -> None:
    shares = type_shares(load(tiny_bundle, name), SMALL)
    assert list(shares.weight_bytes) == list(shares.multiply_adds) == ["float32"]
    ran = bundle_gmac(Bundle.open(tiny_bundle, verify=False), name, (64, 96), SMALL["T"], SMALL["K"])
    assert shares.multiply_adds["float32"] == round(ran * 1e9)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_backbone_that_fuses_text(oracle_bundle: Callable[[OracleCase], Path], name: str) -> None:
    """Its maps are no quarter of the picture, and its captions shorter than what is counted else."""
    bundle = Bundle.open(oracle_bundle(OracleCase("swint_v2_vl")), verify=False)
    axes = counted_axes(bundle.config)
    assert (axes["H3"], axes["T"]) == (101, 48)
    small = {**pyramid_axes(64, 96, overlapping=True), "T": 5, "K": 3}
    ran = bundle_gmac(bundle, name, (64, 96), small["T"], small["K"])
    model = load(bundle.path, name)
    assert type_shares(model, small).multiply_adds["float32"] == round(ran * 1e9)
    assert type_shares(model, axes).multiply_adds["float32"] > ran * 1e9


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_whole_dyconv_blocks_multiply_as_much(tiny_bundle: Path, precision: str) -> None:
    model = load(tiny_bundle, "fusion_head")
    fused = model.clone()
    assert fuse_dyconv(fused) > 1
    for axes in (SMALL, DEFAULT_AXES):
        shares = [type_shares(convert(each, SPECS["fusion_head"], precision), axes) for each in (model, fused)]
        assert shares[0].multiply_adds == shares[1].multiply_adds


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", GRAPHS)
def test_nearly_all_of_a_converted_graph_is_of_its_type(tiny_bundle: Path, name: str, precision: str) -> None:
    model = load(tiny_bundle, name)
    before, after = type_shares(model), type_shares(convert(model, SPECS[name], precision))
    low = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    for amounts in (after.weight_bytes, after.multiply_adds):
        assert amounts[low] / sum(amounts.values()) > 0.98
    assert sum(after.multiply_adds.values()) == sum(before.multiply_adds.values())
    assert sum(after.weight_bytes.values()) < 0.52 * before.weight_bytes["float32"]


def test_the_float32_products_are_those_of_probabilities_and_names(tiny_bundle: Path) -> None:
    shares = type_shares(convert(load(tiny_bundle, "fusion_head"), SPECS["fusion_head"], "fp16"))
    axes = DEFAULT_AXES
    positions = sum(axes[f"H{level}"] * axes[f"W{level}"] for level in range(3, 8))
    assert shares.multiply_adds["float32"] == positions * axes["T"] * axes["K"]


def test_the_axes_asked_for_are_counted(tiny_bundle: Path) -> None:
    model = load(tiny_bundle, "vision_backbone")
    one, three = (type_shares(model, {**SMALL, "B": batch}).multiply_adds["float32"] for batch in (1, 3))
    assert three == 3 * one


def value(name: str, dtype: onnx_ir.DataType, *shape: int | str) -> onnx_ir.Value:
    return onnx_ir.val(name, dtype, shape)


def model_of(nodes: list[onnx_ir.Node], inputs: list[onnx_ir.Value]) -> onnx_ir.Model:
    nodes[-1].outputs[0].name = "y"
    imports = {"": 20, "glip": 1}
    graph = onnx_ir.Graph(inputs, nodes[-1].outputs, nodes=nodes, opset_imports=imports, name="small")
    return onnx_ir.Model(graph, ir_version=10)


def test_a_plugin_node_and_the_product_behind_it() -> None:
    x, weight = value("x", FLOAT16, "B", 8, "H3", "W3"), value("weight", FLOAT16, 6, 72)
    offset, mask = value("offset", FLOAT16, "B", 18, "H4", "W4"), value("mask", FLOAT16, "B", 9, "H4", "W4")
    columns = onnx_ir.node("GlipDeformIm2Col", [x, offset, mask], {"stride": 2}, domain="glip")
    columns.outputs[0].name = "columns"
    model = model_of([columns, onnx_ir.node("MatMul", [weight, columns.outputs[0]])], [x, weight, offset, mask])
    axes = {"B": 2, "H3": 10, "W3": 14, "H4": 5, "W4": 7}
    assert type_shares(model, axes).multiply_adds == {"float16": 2 * 6 * 72 * 5 * 7}
    assert [node.op_type for node in model.graph] == ["GlipDeformIm2Col", "MatMul"]  # the model given is unchanged


def test_sizes_that_values_decide_cannot_be_counted() -> None:
    x = value("x", FLOAT, "B", 4)
    rows = onnx_ir.node("Transpose", [onnx_ir.node("NonZero", [x]).outputs[0]])
    nodes = [rows.inputs[0].producer(), rows, onnx_ir.node("Cast", rows.outputs, {"to": FLOAT})]
    nodes.append(onnx_ir.node("MatMul", [nodes[-1].outputs[0], value("w", FLOAT, 2, 3)]))
    for index, node in enumerate(nodes):
        node.outputs[0].name = f"value{index}"
    with pytest.raises(GlipExportError, match="value2"):
        type_shares(model_of(nodes, [x, nodes[-1].inputs[1]]))


def test_products_not_known_here_are_refused() -> None:
    x = value("x", FLOAT, 2, 3)
    with pytest.raises(GlipExportError, match="Einsum"):
        type_shares(model_of([onnx_ir.node("Einsum", [x, x], {"equation": "ab,ab->a"})], [x]))
