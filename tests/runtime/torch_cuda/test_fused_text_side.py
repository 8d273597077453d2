"""The text's side of the bi-attentions in two nodes, against the graph that they replace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import pytest
import torch
from onnx_ir.passes import common
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import use_host_kernels

from glip_export.bundle import Bundle
from glip_export.graphs.bi_attention_node import fuse_bi_attentions
from glip_export.graphs.contracts import FUSION_HEAD
from glip_export.graphs.modules import ModuleGraph
from glip_export.graphs.precision import convert
from glip_export.graphs.text_side_node import fuse_text_sides, text_sides
from glip_export.runtime.torch_cuda.program import Program
from glip_export.trt import nodes
from glip_export.trt.lowering import lower

SIZES = ((4, 6), (2, 3), (1, 2), (1, 1), (1, 1))


@pytest.fixture(scope="module", autouse=True)
def kernels(host: HostKernels) -> None:
    use_host_kernels(host)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


def head_of(bundle: Bundle, precision: str, fused: bool) -> onnx_ir.Model:
    """The head up to the keys, biases, values and gains of all bi-attentions, which are its outputs."""
    model = onnx_ir.load(bundle.graph_path("fusion_head"))
    sides = list(text_sides(model))
    if fused:
        assert fuse_text_sides(model) == len(sides) == bundle.config.head.num_convs
    made = lower(convert(model, FUSION_HEAD, precision), FUSION_HEAD, bundle.config)
    values = {value.name: value for node in made.graph for value in node.outputs}
    made.graph.outputs[:] = [
        values[name] for side in sides for name in (side.keys, side.bias, side.values, side.gained)
    ]
    common.RemoveUnusedNodesPass()(made)
    return made


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("fp16", 2e-2)])
@pytest.mark.parametrize("batch", [1, 2])
def test_what_goes_to_the_image_and_comes_back(bundle: Bundle, precision: str, tolerance: float, batch: int) -> None:
    """The first run of a size, and one that makes the calls; of two texts one is padded."""
    rng, config, tokens = np.random.default_rng(batch), bundle.config, 9
    given = {
        f"p{level}": rng.standard_normal((batch, config.head.channels, *size), np.float32)
        for level, size in enumerate(SIZES, 3)
    }
    mask = np.ones((batch, tokens), np.int64)
    mask[-1, 6:] = 0
    given |= {
        "text_features": rng.standard_normal((batch, tokens, config.text.bert.hidden_size), np.float32),
        "attention_mask": mask,
        "class_map": np.eye(tokens, 3, dtype=np.float32)[None].repeat(batch, 0),
        "image_sizes": np.full((batch, 2), 64),
    }
    inputs = {name: torch.from_numpy(array) for name, array in given.items()}

    def results(program: Program) -> list[np.ndarray]:
        plan = program.plan(tuple(tuple(inputs[name].shape) for name in program.inputs))
        return [value.float().numpy() for value in plan.run(inputs)]

    plain, fused = (Program(head_of(bundle, precision, fused), torch.device("cpu")) for fused in (False, True))
    expected = results(plain)
    for _ in range(2):
        for ours, theirs in zip(results(fused), expected, strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def test_two_nodes_stand_for_each_and_no_layer_is_left(bundle: Bundle) -> None:
    model = onnx_ir.load(bundle.graph_path("fusion_head"))
    sides = list(text_sides(model))
    fuse_text_sides(model)
    made = [node for node in model.graph if node.op_type in (nodes.TEXT_TO_IMAGE, nodes.TEXT_FROM_IMAGE)]
    assert len(made) == 2 * len(sides)
    for layer in ("l_proj", "values_l_proj", "out_l_proj"):
        assert not [node for node in model.graph if node.metadata_props.get("glip.module", "").endswith(f".{layer}")]
    names = {value.name for node in made for value in node.outputs}
    assert names == {name for side in sides for name in (side.keys, side.bias, side.values, side.gained)}


def test_what_is_multiplied_is_in_float64(bundle: Bundle) -> None:
    """The rounding of a float32 is all that the products differ by from those of the layers, head by head."""
    model = onnx_ir.load(bundle.graph_path("fusion_head"))
    side = next(iter(text_sides(model)))
    constants = {name: value.const_value.numpy().astype(np.float64)
                 for name, value in model.graph.initializers.items() if value.const_value is not None}  # fmt: skip
    weight = constants[f"{side.name}.v_proj.weight"]
    bias = constants[f"{side.name}.l_proj.bias"]
    heads = weight.reshape(side.heads, -1, weight.shape[1])
    expected = bias.reshape(side.heads, 1, -1) @ heads * heads.shape[1] ** -0.5
    np.testing.assert_allclose(side.to_image["keys_bias"], expected, rtol=2e-7, atol=0)


def test_a_module_that_runs_once_a_level_stays(tiny_unfused_bundle: Path) -> None:
    model = onnx_ir.load(Bundle.open(tiny_unfused_bundle, verify=False).graph_path("fusion_head"))
    before = len(model.graph)
    assert fuse_text_sides(model) == 0 and len(model.graph) == before


def test_a_last_module_whose_text_nothing_reads_stays(bundle: Bundle) -> None:
    """As in a head whose logits are not made of the fused text: its softmax over positions is not exported."""
    model = onnx_ir.load(bundle.graph_path("fusion_head"))
    attentions = list(ModuleGraph(model).bi_attentions())
    values = {value.name: value for node in model.graph for value in node.outputs}
    last = attentions[-1].residual
    assert last is not None
    model.graph.outputs[:] = [values[last.output]]
    common.RemoveUnusedNodesPass()(model)
    assert [one.name for one in ModuleGraph(model).bi_attentions()] == [one.name for one in attentions[:-1]]
    assert fuse_text_sides(model) == fuse_bi_attentions(model) == len(attentions) - 1
