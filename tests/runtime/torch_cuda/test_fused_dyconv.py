"""torch:cuda with whole DyConv blocks in one operator each, which PyTorch's own operations stand for here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from onnx_ir.passes import common
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import open_on_host, use_host_kernels
from runtime.torch_cuda.plain_dyconv import plain_dyconv, use_plain_dyconv

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.graphs import dyconv_node
from glip_export.graphs.contracts import graphs_of, pyramid_axes
from glip_export.graphs.dyconv_node import fuse_dyconv, parameters_of
from glip_export.graphs.modules import DyConvModule, ModuleGraph
from glip_export.graphs.precision import convert
from glip_export.model.dyconv import DyConv
from glip_export.model.glip import Glip
from glip_export.parity.cases import Case, built_in_cases
from glip_export.parity.ladder import climb
from glip_export.parity.precision_check import compare_detections
from glip_export.parity.recall import together
from glip_export.parity.run import broken_rules, run
from glip_export.runtime.backends import open_session
from glip_export.runtime.torch_cuda import dyconv, session
from glip_export.runtime.torch_cuda.program import Program
from glip_export.trt.lowering import lower

CHANNELS, GROUPS, EPSILON = 32, 8, [1e-5, 1e-3, 1e-4]
SIZES = ((12, 18), (6, 9), (3, 5), (2, 3), (1, 2))
Drawn = tuple[list[torch.Tensor], list[torch.Tensor], int, list[float]]


@pytest.fixture(scope="module", autouse=True)
def stand_in(host: HostKernels) -> None:
    use_host_kernels(host)
    use_plain_dyconv()


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


def drawn(dtype: torch.dtype = torch.float32, batch: int = 2) -> Drawn:
    """Arguments of the operator whose offsets reach over the maps' edges."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        scale = 1.0 if len(shape) != 2 else 2 * shape[1] ** -0.5
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    features = [draw(batch, CHANNELS, *size) for size in SIZES]
    return features, [draw(*shape) for shape in dyconv._parameter_shapes(CHANNELS)], GROUPS, EPSILON


def blocks_of(bundle: Bundle) -> list[DyConvModule]:
    return list(ModuleGraph(onnx_ir.load(bundle.graph_path("fusion_head"))).dyconvs())


def close(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def test_the_plain_form_is_the_models_block(bundle: Bundle, tiny_model: Glip) -> None:
    """With the parameters out of the graph; odd sizes, levels that no neighbour's stride divides."""
    modules = {name: module for name, module in tiny_model.named_modules() if isinstance(module, DyConv)}
    blocks = blocks_of(bundle)
    generator = torch.Generator().manual_seed(1)
    assert blocks
    for block in blocks:
        (module,) = (module for name, module in modules.items() if name.endswith(block.name))
        channels = len(block.convolutions[0].bias)
        features = [torch.randn(2, channels, *size, generator=generator) for size in SIZES]
        with torch.no_grad():
            expected, _ = module(tuple(features), torch.empty(0), torch.empty(0))
        parameters = [torch.from_numpy(array.copy()) for array in parameters_of(block).values()]
        epsilon = [convolution.epsilon for convolution in block.convolutions]
        made = plain_dyconv(features, parameters, block.convolutions[0].groups, epsilon)
        for one, other in zip(made, expected, strict=True):
            close(one.numpy(), other.numpy(), 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_shapes_and_order_are_known_without_running(dtype: torch.dtype) -> None:
    arguments = drawn(dtype)
    torch.library.opcheck(dyconv.dyconv, arguments, test_utils=("test_schema", "test_faketensor"))
    for made in (dyconv.dyconv(*arguments), dyconv._empty_maps(*arguments)):
        for level, feature in zip(made, arguments[0], strict=True):
            assert (level.shape, level.dtype) == (feature.shape, dtype)
            assert level.is_contiguous(memory_format=torch.channels_last)


def test_launches_get_channels_last_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """And give it back as maps of channels."""

    def launch(maps: Any, parameters: Any, groups: int, epsilon: Any, outputs: Any) -> None:
        made = plain_dyconv([level.permute(0, 3, 1, 2) for level in maps], parameters, groups, epsilon)
        for level, output, result in zip(maps, outputs, made, strict=True):
            assert level.is_contiguous() and output.is_contiguous() and output.shape == level.shape
            output.copy_(result.permute(0, 2, 3, 1))

    monkeypatch.setattr(dyconv, "_launch_dyconv", launch)
    arguments = drawn()
    made, expected = dyconv.dyconv._init_fn(*arguments), plain_dyconv(*arguments)
    for one, other in zip(made, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert one.stride() == other.stride()


def narrower(features: list, parameters: list, groups: int, epsilon: list) -> tuple:
    return [x[:, :16] for x in features], parameters, groups, epsilon


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, p, g, e: ([], p, g, e), "of four axes each"),
        (lambda f, p, g, e: ([x.double() for x in f], p, g, e), "float32 or float16, not torch.float64"),
        (lambda f, p, g, e: (f, [p[0].half(), *p[1:]], g, e), "torch.float16 on cpu beside torch.float32"),
        (lambda f, p, g, e: ([*f[:4], f[4][:1]], p, g, e), "differ in pictures or channels"),
        (lambda f, p, g, e: (f[::-1], p, g, e), "larger than the one before"),
        (narrower, "16 channels in 8 groups with 3 epsilons"),
        (lambda f, p, g, e: (f, p, 5, e), "32 channels in 5 groups"),
        (lambda f, p, g, e: (f, p, g, e[:2]), "with 2 epsilons"),
        (lambda f, p, g, e: (f, p[:-1], g, e), "the parameters of a DyConv block are"),
        (lambda f, p, g, e: (f, [p[0].T, *p[1:]], g, e), "the parameters of a DyConv block are"),
    ],
)
def test_arguments_that_no_kernel_may_see(change: Callable[..., Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dyconv.dyconv._init_fn(*change(*drawn()))


def lowered(bundle: Bundle, precision: str, fused: bool) -> onnx_ir.Model:
    """The fusion head up to what its DyConv blocks give."""
    model, spec = onnx_ir.load(bundle.graph_path("fusion_head")), graphs_of(bundle.config)["fusion_head"]
    ends = [name for block in ModuleGraph(model).dyconvs() for name in block.outputs]
    if fused:
        assert fuse_dyconv(model) == bundle.config.head.num_convs
    made = lower(convert(model, spec, precision), spec, bundle.config)
    values = {value.name: value for node in made.graph for value in node.outputs}
    made.graph.outputs[:] = [values[name] for name in ends]
    common.RemoveUnusedNodesPass()(made)
    return made


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 1e-2)])
@pytest.mark.parametrize(("size", "tokens"), [((64, 96), 7), ((128, 64), 12)])
def test_every_blocks_maps(
    bundle: Bundle, precision: str, tolerance: float, size: tuple[int, int], tokens: int
) -> None:
    """Of two pictures and a prompt whose second is padded: the first run of a size, and one that makes the calls."""
    rng = np.random.default_rng(tokens)
    mask = np.ones((2, tokens), np.int64)
    mask[1, tokens - 3 :] = 0
    config, axes = bundle.config, pyramid_axes(*size)
    shapes = {f"p{level}": (2, config.head.channels, axes[f"H{level}"], axes[f"W{level}"]) for level in range(3, 8)}
    given = {
        **{name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()},
        "text_features": rng.standard_normal((2, tokens, config.text.bert.hidden_size), np.float32),
        "attention_mask": mask,
        "class_map": np.eye(tokens, 3, dtype=np.float32)[None].repeat(2, 0),
        "image_sizes": np.array([size, size]),
    }
    plain, fused = (Program(lowered(bundle, precision, fused), torch.device("cpu")) for fused in (False, True))
    inputs = {name: torch.from_numpy(array) for name, array in given.items()}

    def results(program: Program) -> list[np.ndarray]:
        plan = program.plan(tuple(tuple(inputs[name].shape) for name in program.inputs))
        return [level.float().numpy() for level in plan.run(inputs)]

    expected = results(plain)
    for _ in range(2):
        for ours, theirs in zip(results(fused), expected, strict=True):
            close(ours, theirs, tolerance)


@pytest.fixture(scope="module")
def cases(bundle: Bundle) -> list[Case]:
    return built_in_cases(bundle.config)


def test_the_session_equals_the_one_that_is_not_fused(bundle: Bundle, host: HostKernels, cases: list[Case]) -> None:
    plain, fused = open_on_host(bundle, host), open_on_host(bundle, host, fused=True)
    assert (plain.name, fused.name) == ("torch:cuda:fp32", "torch:cuda:fp32:fused")
    assert climb(plain, fused, bundle.config, cases).failures() == []


def test_graphs_and_compiled_calls_too(bundle: Bundle, host: HostKernels, cases: list[Case]) -> None:
    inputs = cases[2].inputs(bundle.config)  # of two pictures
    expected = run(open_on_host(bundle, host, fused=True, cuda_graphs=0), inputs).chunks[0]
    for words in ({}, {"compiler": "eager"}):
        fused = open_on_host(bundle, host, fused=True, **words)
        for _ in range(3):
            found = run(fused, inputs).chunks[0]
            np.testing.assert_array_equal(found.scores, expected.scores)
            np.testing.assert_array_equal(found.boxes, expected.boxes)
        assert fused.describe()["cuda_graph_trouble"] == {}


def test_fp16_finds_the_clear_detections(demo_bundle: Path, host: HostKernels) -> None:
    bundle = Bundle.open(demo_bundle, verify=False)
    reference = open_session(bundle, "onnxruntime", threads=1)
    fused = open_on_host(bundle, host, "fp16", fused=True)
    assert fused.name == "torch:cuda:fp16:fused"
    diffs = []
    for case in built_in_cases(bundle.config):
        inputs = case.inputs(bundle.config)
        found, expected = run(fused, inputs), run(reference, inputs)
        assert broken_rules(found, inputs, bundle.config) == ()
        diffs.append(compare_detections(expected, found))
    assert together(diffs).within(), f"{together(diffs).found} of {together(diffs).counted}"


def test_what_has_no_kernel_is_refused(bundle: Bundle, host: HostKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="no kernels for a DyConv block in bf16: choose fp16 or fp32"):
        open_on_host(bundle, host, "bf16", fused=True)
    monkeypatch.setattr(dyconv_node, "CHANNEL_UNIT", 128)
    with pytest.raises(BackendError, match="our kernels take no DyConv block of this model"):
        open_on_host(bundle, host, fused=True)


@pytest.mark.parametrize(("word", "precision"), [("torch:cuda:fused", ""), ("torch:cuda:fp32:fused", "fp32")])
def test_its_words(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, word: str, precision: str) -> None:
    calls = []
    monkeypatch.setattr(session, "TorchCudaSession", lambda *given, **words: calls.append((given, words)))
    open_session(bundle, word)
    assert calls == [((bundle, precision), {"fused": True})]
    with pytest.raises(BackendError, match="no backend 'torch:cuda:bf16:fused'"):
        open_session(bundle, "torch:cuda:bf16:fused")
