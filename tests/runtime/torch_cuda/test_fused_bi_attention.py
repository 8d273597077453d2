"""torch:cuda with bi-attentions in our kernels, compiled as C++."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from onnx_ir.passes import common
from plugins.drawn_bi_attention import LIMITS, draw, expected_of
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import use_host_kernels

from glip_export.bundle import Bundle
from glip_export.graphs import bi_attention_node
from glip_export.graphs.bi_attention_node import BI_ATTENTION, fuse_bi_attentions
from glip_export.graphs.contracts import graphs_of, pyramid_axes
from glip_export.graphs.modules import ModuleGraph
from glip_export.graphs.precision import convert
from glip_export.graphs.quantized import add_initializer
from glip_export.runtime.torch_cuda import bi_attention
from glip_export.runtime.torch_cuda.program import Program
from glip_export.trt import bi_attention_launches, nodes
from glip_export.trt.lowering import lower

FLOAT, HALF = onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16
HEADS, TOKENS, WITHIN = 3, 6, [-50000.0, 50000.0]


@pytest.fixture(scope="module", autouse=True)
def kernels(host: HostKernels) -> None:
    use_host_kernels(host)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


def graph_of(bundle: Bundle) -> onnx_ir.Model:
    return onnx_ir.load(bundle.graph_path("fusion_head"))


def nodes_of(model: onnx_ir.Model) -> list[onnx_ir.Node]:
    return [node for node in model.graph if (node.domain, node.op_type) == ("glip", "GlipBiAttention")]


def tensors(dtype: torch.dtype, batch: int = 2) -> tuple[torch.Tensor, ...]:
    """v, keys, bias, values, mask, gain, offset."""
    drawn = draw(batch, 20, 32, TOKENS, heads=HEADS)
    low = [torch.from_numpy(array).to(dtype) for array in (drawn.v, drawn.keys, drawn.bias, drawn.values)]
    return (*low, *map(torch.from_numpy, (drawn.mask, drawn.gain, drawn.offset)))


def strided(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


@pytest.mark.parametrize("dtype", LIMITS)
def test_a_node_is_the_formula(dtype: str) -> None:
    """With its norm, of an image that is not contiguous."""
    drawn = draw(2, 20, 32, TOKENS, heads=HEADS)
    low = getattr(torch, dtype)
    x = torch.from_numpy(drawn.v * 3 + 1).to(low)
    weight, beta = torch.linspace(0.5, 2, 32), torch.linspace(-1, 1, 32)
    keys, bias, values = (torch.from_numpy(array).to(low) for array in (drawn.keys, drawn.bias, drawn.values))
    vectors = weight, beta, *(torch.from_numpy(array) for array in (drawn.gain, drawn.offset))
    mask = torch.from_numpy(drawn.mask)[:, None, None]
    made = bi_attention.bi_attention(1e-5, WITHIN, strided(x), keys, bias[..., None], values, mask, *vectors)
    v = torch.nn.functional.layer_norm(x.double(), (32,), weight.double(), beta.double(), 1e-5)
    exact = expected_of(replace(drawn, v=v.numpy()))
    for ours, theirs in zip(made, exact, strict=True):
        assert ours.dtype == low
        assert np.abs(ours.double().numpy() - theirs).max() <= LIMITS[dtype] * np.abs(theirs).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_shapes_are_known_without_running(dtype: torch.dtype) -> None:
    v, keys, bias, *others = tensors(dtype)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(bi_attention.text_reads, (v, keys, bias, HEADS, WITHIN), test_utils=tests)
    torch.library.opcheck(bi_attention.image_reads, (v, keys, bias, *others, WITHIN), test_utils=tests)


def test_launches_go_on_the_tensors_stream(monkeypatch: pytest.MonkeyPatch, host: HostKernels) -> None:
    """The operators as on a GPU, with addresses of tensors that are not contiguous."""
    counts: list[int] = []

    def put(launches: Any, on: torch.Tensor) -> None:
        assert [host.launch(launch) for launch in launches] == [0] * len(launches)
        counts.append(len(launches))

    monkeypatch.setattr(bi_attention, "put_on_stream", put)
    v, keys, bias, *others = tensors(torch.float16)
    given = [strided(tensor) for tensor in (v, keys, bias)]
    made = bi_attention.text_reads._init_fn(*given, HEADS, WITHIN)
    assert torch.equal(made, torch.ops.glip_export.text_reads(v, keys, bias, HEADS, WITHIN))
    made = bi_attention.image_reads._init_fn(*given, *others, WITHIN)
    assert torch.equal(made, torch.ops.glip_export.image_reads(v, keys, bias, *others, WITHIN))
    assert counts == [2, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v, k, b, *o: (v.double(), k, b, *o), "float32 or float16, not torch.float64"),
        (lambda v, k, b, *o: (v, k.float(), b, *o), "float16 with torch.float32"),
        (lambda v, k, b, *o: (v, k[:1], b, *o), "does not take keys"),
        (lambda v, k, b, *o: (v, k, b[..., None], *o), "does not take keys"),
        (lambda v, k, b, *o: (v[0], k, b, *o), "a mask|does not take keys"),
        (lambda v, k, b, x, m, *o: (v, k, b, x[:, 1:], m, *o), "does not take values"),
        (lambda v, k, b, x, m, *o: (v, k, b, x, m[:, 1:], *o), "does not take a mask"),
        (lambda v, k, b, x, m, *o: (v, k, b, x, m[:1], *o), "does not take a mask"),
        (lambda v, k, b, x, m, *o: (v, k, b, x, m.half(), *o), "are float32, of 32 channels"),
        (lambda v, k, b, x, m, g, f: (v, k, b, x, m, g[1:], f), "are float32, of 32 channels"),
        (lambda v, k, b, x, *o: (v[..., :16], k[..., :16], b, x[..., :16], *o), "16 channels"),
    ],
)
def test_arguments_that_no_kernel_may_see(change: Callable[..., Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bi_attention.image_reads._init_fn(*change(*tensors(torch.float16)), WITHIN)


def test_more_tokens_than_the_kernels_take() -> None:
    v, keys = torch.zeros(1, 4, 32), torch.zeros(1, 257, 32)
    with pytest.raises(ValueError, match="1 heads of 257 tokens"):
        bi_attention.text_reads._init_fn(v, keys, torch.zeros(1, 257), 1, WITHIN)


def test_the_names_are_trts() -> None:
    assert BI_ATTENTION == nodes.BI_ATTENTION
    sizes = bi_attention_node.CHANNEL_UNIT, bi_attention_node.MAX_CHANNELS
    assert sizes == (bi_attention_launches.CHANNELS, bi_attention_launches.MAX_CHANNELS)


def test_nodes_stand_for_whole_modules(bundle: Bundle) -> None:
    model = graph_of(bundle)
    modules = list(ModuleGraph(model).bi_attentions())
    assert modules and all(module.residual is not None for module in modules)
    before = len(model.graph)
    assert fuse_bi_attentions(model) == len(modules)
    made = nodes_of(model)
    names = {tuple(value.name for value in node.outputs) for node in made}
    assert names == {(module.to_text, module.residual.output) for module in modules if module.residual}
    assert len(model.graph) <= before - 10 * len(made)
    for node in made:
        module = next(module for module in modules if module.to_text == node.outputs[0].name)
        inputs = [module.residual.input, module.keys, module.bias, module.values, module.mask]  # type: ignore[union-attr]
        assert [value.name for value in node.inputs[:5] if value is not None] == inputs
        assert list(node.attributes["limits"].as_floats()) == pytest.approx([module.low, module.high])
    known = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in model.graph:  # sorted
        assert known.issuperset(value for value in node.inputs if value is not None), node.name
        known.update(node.outputs)
    assert all(value.uses() for value in model.graph.initializers.values())


def test_calls_of_one_module_have_names_of_their_own(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of one that attends level by level (SEPARATE_BIDIRECTIONAL)."""
    modules = [replace(module, name="fused") for module in ModuleGraph(graph_of(bundle)).bi_attentions()]
    monkeypatch.setattr(ModuleGraph, "bi_attentions", lambda graph: iter(modules))
    model = graph_of(bundle)
    assert fuse_bi_attentions(model) == len(modules) > 1
    made = nodes_of(model)
    assert {node.name for node in made} == {"fused", *(f"fused.{place}" for place in range(1, len(made)))}
    constants = [value.name for node in made for value in node.inputs[5:] if value is not None]
    assert len(set(constants)) == 4 * len(made)


def test_halves_but_for_the_mask_and_the_vectors(bundle: Bundle) -> None:
    model = graph_of(bundle)
    fuse_bi_attentions(model)
    converted = nodes_of(convert(model, graphs_of(bundle.config)["fusion_head"], "fp16"))
    assert converted
    for node in converted:
        assert [value.dtype for value in node.inputs if value is not None] == [HALF] * 4 + [FLOAT] * 5
        assert [value.dtype for value in node.outputs] == [HALF] * 2


def test_what_has_no_kernel_stays(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def assert_same(model: onnx_ir.Model) -> None:
        before = [node.name for node in model.graph]
        assert fuse_bi_attentions(model) == 0 and [node.name for node in model.graph] == before

    with monkeypatch.context() as other:
        other.setattr(bi_attention_node, "CHANNEL_UNIT", 48)
        assert_same(graph_of(bundle))
    with monkeypatch.context() as other:  # one that nothing stands around
        found = list(ModuleGraph(graph_of(bundle)).bi_attentions())
        bare = [replace(module, residual=None) for module in found]
        other.setattr(ModuleGraph, "bi_attentions", lambda graph: iter(bare))
        assert_same(graph_of(bundle))
    model = graph_of(bundle)
    scale = add_initializer(model.graph, "a_scale", np.array(0.5, np.float32))
    whole = add_initializer(model.graph, "a_weight", np.array([1, 2], np.int8))
    model.graph.append(onnx_ir.node("DequantizeLinear", [whole, scale]))
    assert_same(model)


def ending_at_bi_attentions(bundle: Bundle, precision: str, fused: bool) -> onnx_ir.Model:
    """The fusion head up to what its bi-attentions give."""
    model, spec = graph_of(bundle), graphs_of(bundle.config)["fusion_head"]
    modules = list(ModuleGraph(model).bi_attentions())
    if fused:
        assert fuse_bi_attentions(model) == len(modules)
    made = lower(convert(model, spec, precision), spec, bundle.config)
    values = {value.name: value for node in made.graph for value in node.outputs}
    made.graph.outputs[:] = [values[name] for m in modules if m.residual for name in (m.to_text, m.residual.output)]
    common.RemoveUnusedNodesPass()(made)
    return made


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 1e-2)])
@pytest.mark.parametrize("tokens", [7, 20])
def test_every_modules_values(bundle: Bundle, precision: str, tolerance: float, tokens: int) -> None:
    """Of two pictures and a prompt whose second is padded: the first run of a size, and one that makes the calls."""
    rng = np.random.default_rng(tokens)
    mask = np.ones((2, tokens), np.int64)
    mask[1, tokens - 3 :] = 0
    size, config = (64, 96), bundle.config
    axes = pyramid_axes(*size)
    shapes = {f"p{level}": (2, config.head.channels, axes[f"H{level}"], axes[f"W{level}"]) for level in range(3, 8)}
    given = {
        **{name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()},
        "text_features": rng.standard_normal((2, tokens, config.text.bert.hidden_size), np.float32),
        "attention_mask": mask,
        "class_map": np.eye(tokens, 3, dtype=np.float32)[None].repeat(2, 0),
        "image_sizes": np.array([size, size]),
    }
    inputs = {name: torch.from_numpy(array) for name, array in given.items()}

    def results(program: Program) -> list[np.ndarray]:
        plan = program.plan(tuple(tuple(inputs[name].shape) for name in program.inputs))
        return [made.float().numpy() for made in plan.run(inputs)]

    plain, fused = (
        Program(ending_at_bi_attentions(bundle, precision, fused), torch.device("cpu")) for fused in (False, True)
    )
    expected = results(plain)
    assert expected
    for _ in range(2):
        for ours, theirs in zip(results(fused), expected, strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())
