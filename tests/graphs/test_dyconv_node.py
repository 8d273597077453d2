"""DyConv blocks as one node each: what goes, what stays, and the parameters."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from glip_export.bundle import Bundle
from glip_export.graphs import dyconv_node, fused_nodes
from glip_export.graphs.contracts import graphs_of
from glip_export.graphs.dyconv_node import fuse_dyconv
from glip_export.graphs.islands import float32_nodes
from glip_export.graphs.modules import MODULE_KEY, DyConvModule, ModuleGraph
from glip_export.graphs.precision import LOW_TYPES, convert
from glip_export.graphs.quantized import add_initializer
from glip_export.model.dyconv import DyConv
from glip_export.model.glip import Glip
from glip_export.trt import dyconv_launches, nodes
from glip_export.trt.lowering import lower

FLOAT = onnx_ir.DataType.FLOAT


@pytest.fixture(scope="module", params=["tiny_bundle", "tiny_unfused_bundle"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """With a fusion between its blocks, and with blocks that read each other's maps."""
    return Bundle.open(request.getfixturevalue(request.param), verify=False)


@pytest.fixture(scope="module")
def plain(bundle: Bundle) -> onnx_ir.Model:
    """The fusion head as it was exported; not to be changed."""
    return onnx_ir.load(bundle.graph_path("fusion_head"))


@pytest.fixture(scope="module")
def blocks(plain: onnx_ir.Model) -> list[DyConvModule]:
    return list(ModuleGraph(plain).dyconvs())


@pytest.fixture(scope="module")
def fused(bundle: Bundle, plain: onnx_ir.Model) -> onnx_ir.Model:
    model = plain.clone()
    assert fuse_dyconv(model) == bundle.config.head.num_convs > 1
    return model


def dyconvs(model: onnx_ir.Model) -> list[onnx_ir.Node]:
    return [node for node in model.graph if (node.domain, node.op_type) == ("glip", "GlipDyConv")]


def of(blocks: list[DyConvModule], model: onnx_ir.Model) -> Iterator[onnx_ir.Node]:
    """The nodes of these blocks' modules."""
    for node in model.graph:
        module = node.metadata_props.get(MODULE_KEY, "")
        if any(f"{module}.".startswith(f"{block.name}.") for block in blocks):
            yield node


def described(model: onnx_ir.Model) -> list[tuple]:
    """All of a graph but its weights' values."""
    return [
        *((value.name, value.dtype, str(value.shape)) for value in model.graph.initializers.values()),
        *(
            (node.name, node.op_type, *(v and v.name for v in node.inputs), *((v.name, v.dtype) for v in node.outputs))
            for node in model.graph
        ),
    ]


def test_the_names_are_trts() -> None:
    assert (dyconv_node.DYCONV, fused_nodes.DOMAIN, fused_nodes.OPSET) == (nodes.DYCONV, nodes.DOMAIN, nodes.OPSET)
    ours = dyconv_node.CHANNEL_UNIT, dyconv_node.MAX_CHANNELS, dyconv_node.MAX_LEVELS
    assert ours == (dyconv_launches.CHANNELS, dyconv_launches.MAX_CHANNELS, dyconv_launches.MAX_LEVELS)


def test_one_node_a_block(plain: onnx_ir.Model, fused: onnx_ir.Model, blocks: list[DyConvModule]) -> None:
    values = {value.name: value for node in plain.graph for value in (*node.inputs, *node.outputs) if value is not None}
    for node, block in zip(dyconvs(fused), blocks, strict=True):
        levels = len(block.features)
        assert tuple(value.name for value in node.inputs[:levels]) == block.features
        assert tuple(value.name for value in node.outputs) == block.outputs
        for value in node.outputs:
            assert (value.dtype, str(value.shape)) == (FLOAT, str(values[value.name].shape))
        assert node.metadata_props[MODULE_KEY] == node.name == block.name
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        epsilon = tuple(convolution.epsilon for convolution in block.convolutions)
        assert attributes == {"levels": levels, "groups": block.convolutions[0].groups, "epsilon": epsilon}
    assert fused.opset_imports["glip"] == 1


def test_nothing_is_left_of_the_blocks(
    bundle: Bundle, plain: onnx_ir.Model, fused: onnx_ir.Model, blocks: list[DyConvModule]
) -> None:
    spec = graphs_of(bundle.config)["fusion_head"]
    before, after = (lower(model, spec, bundle.config) for model in (plain, fused))
    assert [node.op_type for node in of(blocks, after)] == ["GlipDyConv"] * len(blocks)
    gone = len(list(of(blocks, before)))
    assert len(after.graph) <= len(before.graph) - gone + len(blocks) < len(before.graph) / 2
    assert not Counter(node.op_type for node in after.graph)["GlipDeformIm2Col"]
    for value in fused.graph.initializers.values():
        assert value.uses()
    names = [value.name for node in fused.graph for value in node.outputs]
    assert len(set(names)) == len(names) and len({node.name for node in fused.graph}) == len(fused.graph)


def test_the_graph_is_sorted(fused: onnx_ir.Model) -> None:
    made = {*fused.graph.inputs, *fused.graph.initializers.values()}
    for node in fused.graph:
        assert made.issuperset(value for value in node.inputs if value is not None), node.name
        made.update(node.outputs)
    assert made.issuperset(fused.graph.outputs)


def test_a_callers_clone_is_all_that_changes(plain: onnx_ir.Model) -> None:
    before = described(plain)
    changed = plain.clone()
    fuse_dyconv(changed)
    assert described(plain) == before != described(changed)


def test_parameters_are_the_models(tiny_bundle: Path, tiny_model: Glip) -> None:
    """Against the model's own modules, each weight read tap by tap."""
    model = onnx_ir.load(tiny_bundle / "fusion_head.onnx")
    fuse_dyconv(model)
    modules = {name: module for name, module in tiny_model.named_modules() if isinstance(module, DyConv)}
    assert len(dyconvs(model)) == len(modules)
    for node in dyconvs(model):
        (module,) = (module for name, module in modules.items() if name.endswith(node.name))
        channels = len(module.DyConv[0].conv.bias)
        expected = [tap_by_tap(module.offset.weight.numpy()), module.offset.bias.numpy()]
        for block in module.DyConv:
            expected += [tap_by_tap(block.conv.weight.numpy()), block.conv.bias.numpy()]
            expected += [block.bn.weight.numpy(), block.bn.bias.numpy()]
        for layer in (module.AttnConv[1], module.relu.fc[0], module.relu.fc[2]):
            expected += [layer.weight.numpy(), layer.bias.numpy()]
        expected[14] = expected[14].reshape(channels)
        given = [value.const_value.numpy() for value in node.inputs[node.attributes["levels"].as_int() :]]
        assert len(given) == len(expected) == 20
        for ours, theirs in zip(given, expected, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_array_equal(ours, theirs)


def tap_by_tap(weight: np.ndarray) -> np.ndarray:
    columns = [weight[:, :, y, x] for y in range(3) for x in range(3)]
    return np.concatenate(columns, axis=1)


@pytest.mark.parametrize("precision", LOW_TYPES)
def test_it_gets_its_types_as_other_products_do(
    bundle: Bundle, plain: onnx_ir.Model, fused: onnx_ir.Model, precision: str
) -> None:
    converted = convert(fused, graphs_of(bundle.config)["fusion_head"], precision)
    assert dyconvs(converted)
    for node in dyconvs(converted):
        assert {value.dtype for value in (*node.inputs, *node.outputs)} == {LOW_TYPES[precision]}
        assert len(node.inputs) == 25
    # Around it the islands are as before, but that what only moves its maps is of the lower type too.
    islands, before = ({node.name for node in float32_nodes(model.graph)} for model in (fused, plain))
    assert islands <= before
    remaining = {node.name: node.op_type for node in fused.graph}
    assert {remaining[name] for name in before - islands if name in remaining} <= {"Reshape", "Concat", "Transpose"}


@pytest.mark.parametrize("why", ["channels", "groups of its convolutions", "groups that do not divide"])
def test_a_block_that_no_kernel_takes_stays(
    plain: onnx_ir.Model, blocks: list[DyConvModule], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def change(block: DyConvModule) -> DyConvModule:
        first, *others = block.convolutions
        if why == "groups that do not divide":
            others = [dataclasses.replace(convolution, groups=7) for convolution in others]
        first = dataclasses.replace(first, groups=7 if "divide" in why else 2)
        return dataclasses.replace(block, convolutions=(first, *others))

    if why == "channels":
        monkeypatch.setattr(dyconv_node, "CHANNEL_UNIT", 48)
        changed: Callable[[ModuleGraph], list[DyConvModule]] = lambda graph: blocks  # noqa: E731
    else:
        changed = lambda graph: [change(blocks[0]), *blocks[1:]]  # noqa: E731
    monkeypatch.setattr(ModuleGraph, "dyconvs", changed)
    model = plain.clone()
    left = len(blocks) if why == "channels" else 1
    assert fuse_dyconv(model) == len(dyconvs(model)) == len(blocks) - left
    assert len(list(of(blocks[:1], model))) == len(list(of(blocks[:1], plain)))
    if why == "channels":
        assert described(model) == described(plain)


def test_an_int8_graph_stays(plain: onnx_ir.Model) -> None:
    model = plain.clone()
    scale = add_initializer(model.graph, "a_scale", np.array(0.5, np.float32))
    whole = add_initializer(model.graph, "a_weight", np.array([1, 2], np.int8))
    model.graph.append(onnx_ir.node("DequantizeLinear", [whole, scale]))
    before = described(model)
    assert fuse_dyconv(model) == 0
    assert described(model) == before


def test_other_graphs_stay(bundle: Bundle) -> None:
    model = onnx_ir.load(bundle.graph_path("vision_backbone"))
    before = described(model)
    assert fuse_dyconv(model) == 0
    assert described(model) == before
