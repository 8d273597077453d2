"""Swin blocks as one node each: what goes, what stays, the parameters and their types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from glip_export.bundle import Bundle
from glip_export.graphs import fused_nodes, swin_node
from glip_export.graphs.contracts import graphs_of
from glip_export.graphs.islands import float32_nodes
from glip_export.graphs.modules import MODULE_KEY, ModuleGraph, SwinBlockModule
from glip_export.graphs.precision import LOW_TYPES, convert
from glip_export.graphs.quantized import add_initializer
from glip_export.graphs.swin_node import arranged, fuse_swin
from glip_export.model.glip import Glip
from glip_export.model.swin_block import Block
from glip_export.trt import nodes

FLOAT = onnx_ir.DataType.FLOAT


@pytest.fixture(autouse=True)
def kernels_for_every_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if: the small GLIP's heads have 12 and 24 channels."""
    monkeypatch.setattr(swin_node, "DEPTH_UNIT", 12)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


@pytest.fixture
def model(bundle: Bundle) -> onnx_ir.Model:
    return onnx_ir.load(bundle.graph_path("vision_backbone"))


@pytest.fixture
def blocks(model: onnx_ir.Model) -> list[SwinBlockModule]:
    return list(ModuleGraph(model).swin_blocks())


def nodes_of(model: onnx_ir.Model) -> list[onnx_ir.Node]:
    return [node for node in model.graph if (node.domain, node.op_type) == (nodes.DOMAIN, nodes.SWIN_BLOCK)]


def test_one_node_a_block(bundle: Bundle, model: onnx_ir.Model, blocks: list[SwinBlockModule]) -> None:
    assert fuse_swin(model) == len(blocks) == sum(bundle.config.swin.depths)
    for node, block in zip(nodes_of(model), blocks, strict=True):
        assert (node.inputs[0].name, node.outputs[0].name) == (block.input, block.output)  # type: ignore[union-attr]
        assert node.metadata_props[MODULE_KEY] == node.name == block.name
        assert node.outputs[0].dtype == FLOAT
    assert not {"Softmax", "Pad", "Gelu"} & {node.op_type for node in model.graph}
    assert all(value.uses() for value in model.graph.initializers.values())
    made = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in model.graph:
        assert made.issuperset(value for value in node.inputs if value is not None), node.name
        made.update(node.outputs)


def test_parameters_are_the_models(model: onnx_ir.Model, tiny_model: Glip) -> None:
    fuse_swin(model)
    modules = {name: module for name, module in tiny_model.named_modules() if isinstance(module, Block)}
    assert len(modules) == len(nodes_of(model))
    for node in nodes_of(model):
        (block,) = (module for name, module in modules.items() if name.endswith(node.name or "?"))
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        assert (attributes["window"], attributes["shift"]) == (block.window, block.shift)
        assert attributes["scale"] == pytest.approx(block.attn.scale)
        assert attributes["epsilon"] == pytest.approx((block.norm1.eps, block.norm2.eps))
        relative = block.attn.relative_position_bias().detach().numpy()
        expected = [block.norm1.weight, block.norm1.bias, block.attn.qkv.weight, block.attn.qkv.bias, None]
        expected += [block.attn.proj.weight, block.attn.proj.bias, block.norm2.weight, block.norm2.bias]
        expected += [block.mlp.fc1.weight, block.mlp.fc1.bias, block.mlp.fc2.weight, block.mlp.fc2.bias]
        for value, parameter in zip(node.inputs[1:], expected, strict=True):
            assert value is not None and value.const_value is not None
            theirs = arranged(relative) if parameter is None else parameter.detach().numpy()
            np.testing.assert_array_equal(value.const_value.numpy(), theirs)


@pytest.mark.parametrize("precision", LOW_TYPES)
def test_weights_are_of_the_lower_type_around_a_float32_stream(
    bundle: Bundle, model: onnx_ir.Model, precision: str
) -> None:
    fuse_swin(model)
    assert set(nodes_of(model)) <= float32_nodes(model.graph)
    converted = convert(model, graphs_of(bundle.config)["vision_backbone"], precision)
    low, made = LOW_TYPES[precision], nodes_of(converted)
    assert made
    for node in made:
        types = [value.dtype for value in node.inputs if value is not None]
        assert types == [*[FLOAT] * 3, *[low] * 4, *[FLOAT] * 3, *[low] * 3, FLOAT]
        assert node.outputs[0].dtype == FLOAT
    follows = [node for node in made if node.inputs[0].producer() in made]  # type: ignore[union-attr]
    assert len(follows) == sum(depth - 1 for depth in bundle.config.swin.depths)  # no cast between two blocks


@pytest.mark.parametrize(
    ("limit", "value", "left"),
    [("DEPTH_UNIT", 16, 8), ("MAX_DEPTH", 12, 6), ("MAX_WINDOW_VALUES", 49 * 24 - 1, 6), ("MAX_NORM_CHANNELS", 96, 2)],
)
def test_a_block_that_no_kernel_takes_stays(
    model: onnx_ir.Model, blocks: list[SwinBlockModule], monkeypatch: pytest.MonkeyPatch, limit: str, value: int,
    left: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(swin_node, limit, value)
    before = len(model.graph)
    assert fuse_swin(model) == len(nodes_of(model)) == len(blocks) - left
    assert sum(node.op_type == "Softmax" for node in model.graph) == left
    assert (len(model.graph) == before) == (left == len(blocks))


def test_an_int8_graph_and_other_graphs_stay(bundle: Bundle, model: onnx_ir.Model) -> None:
    scale = add_initializer(model.graph, "a_scale", np.array(0.5, np.float32))
    whole = add_initializer(model.graph, "a_weight", np.array([1, 2], np.int8))
    model.graph.append(onnx_ir.node("DequantizeLinear", [whole, scale]))
    for graph in (model, *(onnx_ir.load(bundle.graph_path(name)) for name in ("text_encoder", "fusion_head"))):
        before = len(graph.graph)
        assert fuse_swin(graph) == 0 and len(graph.graph) == before


def test_the_names_are_trts() -> None:
    assert (swin_node.SWIN_BLOCK, fused_nodes.DOMAIN, fused_nodes.OPSET) == (
        nodes.SWIN_BLOCK,
        nodes.DOMAIN,
        nodes.OPSET,
    )
