"""torch:cuda with whole DyConv blocks in one operator each; for most tests PyTorch's own operations stand for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from onnx_ir.passes import common
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import open_on_host, use_host_dyconv, use_host_kernels
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
from glip_export.runtime.torch_cuda import dyconv, functions, session
from glip_export.runtime.torch_cuda.program import Program
from glip_export.trt.dyconv_launches import parameter_shapes
from glip_export.trt.lowering import lower

CHANNELS, GROUPS, EPSILON = 32, 8, [1e-5, 1e-3, 1e-4]
SIZES = ((12, 18), (6, 9), (3, 5), (2, 3), (1, 2))
SIDES = [side for size in SIZES for side in size]
Drawn = tuple[torch.Tensor, list[int], list[torch.Tensor], int, list[float]]


@pytest.fixture(scope="module", autouse=True)
def stand_in(host: HostKernels) -> Iterator[None]:
    use_host_kernels(host)
    use_plain_dyconv()
    yield
    use_host_dyconv(host)


@pytest.fixture
def kernels(host: HostKernels) -> Iterator[None]:
    use_host_dyconv(host)
    yield
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

    x = draw(batch, sum(height * width for height, width in SIZES), CHANNELS)
    return x, SIDES, [draw(*shape) for shape in parameter_shapes(CHANNELS)], GROUPS, EPSILON


def joined(features: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([feature.flatten(2).transpose(1, 2) for feature in features], dim=1)


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
        made = plain_dyconv(joined(features), SIDES, parameters, block.convolutions[0].groups, epsilon)
        close(made.numpy(), joined(expected).numpy(), 1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_the_kernels_are_the_plain_form(kernels: None, dtype: torch.dtype, tolerance: float) -> None:
    arguments = drawn(dtype)
    made, expected = dyconv.dyconv(*arguments), plain_dyconv(*arguments)
    close(made.float().numpy(), expected.float().numpy(), tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_shapes_and_order_are_known_without_running(dtype: torch.dtype) -> None:
    arguments = drawn(dtype)
    torch.library.opcheck(dyconv.dyconv, arguments, test_utils=("test_schema", "test_faketensor"))
    for made in (dyconv.dyconv(*arguments), dyconv._empty_maps(*arguments)):
        assert (made.shape, made.dtype) == (arguments[0].shape, dtype) and made.is_contiguous()


def test_a_nodes_maps_are_views(bundle: Bundle) -> None:
    """Channels last: what reads them as (B, N, C) copies nothing."""
    x, sides, parameters, groups, epsilon = drawn()
    parts = torch.split(x, [height * width for height, width in SIZES], dim=1)
    features = [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, SIZES, strict=True)]
    assert functions.are_adjacent(functions.positions_of(features), 1)
    made = functions.dyconv(len(SIZES), groups, epsilon, False, *features, *parameters)
    for one, other in zip(
        made, functions.dyconv(len(SIZES), groups, epsilon, True, *features, *parameters), strict=True
    ):
        assert torch.equal(one, other)
    assert [level.shape for level in made] == [feature.shape for feature in features]
    assert {level.untyped_storage().data_ptr() for level in made} == {made[0].untyped_storage().data_ptr()}
    torch.testing.assert_close(joined(made), plain_dyconv(x, sides, parameters, groups, epsilon), rtol=0, atol=0)


def test_launches_go_on_the_tensors_stream(monkeypatch: pytest.MonkeyPatch, host: HostKernels) -> None:
    """The operator as on a GPU, with addresses of tensors that are not contiguous."""

    def put(launches: Any, on: torch.Tensor) -> None:
        assert [host.launch(launch) for launch in launches] == [0] * 4

    monkeypatch.setattr(dyconv, "put_on_stream", put)
    x, sides, parameters, groups, epsilon = drawn()
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    made = dyconv.dyconv._init_fn(strided, sides, parameters, groups, epsilon)
    close(made.numpy(), plain_dyconv(x, sides, parameters, groups, epsilon).numpy(), 1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, s, p, g, e: (x.double(), s, p, g, e), "float32 or float16, not torch.float64"),
        (lambda x, s, p, g, e: (x, s, [p[0].half(), *p[1:]], g, e), "torch.float16 on cpu beside torch.float32"),
        (lambda x, s, p, g, e: (x[:, 1:], s, p, g, e), "is not .B, N, C. with the positions of the levels"),
        (lambda x, s, p, g, e: (x[0], s, p, g, e), "is not .B, N, C. with the positions of the levels"),
        (lambda x, s, p, g, e: (x, s[8:] + s[2:8] + s[:2], p, g, e), "a level of .* does not follow on one of"),
        (lambda x, s, p, g, e: (x[..., :16], s, p, g, e), "16 channels in 8 groups"),
        (lambda x, s, p, g, e: (x, s, p, 5, e), "32 channels in 5 groups"),
        (lambda x, s, p, g, e: (x, s, p, g, e[:2]), "three norms, and 2 epsilons"),
        (lambda x, s, p, g, e: (x, s, p[:-1], g, e), "the parameters of a DyConv block are"),
        (lambda x, s, p, g, e: (x, s, [p[0].T, *p[1:]], g, e), "the parameters of a DyConv block are"),
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


def test_the_session_on_our_kernels(kernels: None, bundle: Bundle, host: HostKernels, cases: list[Case]) -> None:
    plain, fused = open_on_host(bundle, host), open_on_host(bundle, host, fused=True)
    assert climb(plain, fused, bundle.config, cases[:1]).failures() == []


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
    with pytest.raises(BackendError, match="no fused kernels in bf16: choose fp16 or fp32"):
        open_on_host(bundle, host, "bf16", fused=True)
    monkeypatch.setattr(dyconv_node, "CHANNEL_UNIT", 128)
    with pytest.raises(BackendError, match="our kernels take no DyConv block of this model"):
        open_on_host(bundle, host, fused=True)


def test_some_modules_alone(bundle: Bundle) -> None:
    """For measurements: what each is good for."""
    spec = graphs_of(bundle.config)["fusion_head"]
    nodes = {
        "text layer": {"GlipTextLayer"},
        "text side": {"GlipTextToImage", "GlipTextFromImage"},
        "bi-attention": {"GlipBiAttention"},
        "dyconv": {"GlipDyConv"},
        "candidates": {"GlipCandidates"},
    }
    for name in session.FUSED:
        made = session.lowered(bundle, spec, "fp16", (name,))
        found = {node.op_type for node in made.graph if node.domain == "glip"} - {"GlipDeformIm2Col", "GlipNms"}
        assert found == nodes.get(name, set()), name


def test_a_module_that_is_none(bundle: Bundle, host: HostKernels) -> None:
    with pytest.raises(ValueError, match="no modules bert, fpn: fused is some of swin, text layer, "):
        open_on_host(bundle, host, fused=("fpn", "dyconv", "bert"))


@pytest.mark.parametrize(
    ("word", "options"),
    [
        ("torch:cuda", {"precision": ""}),
        ("torch:cuda:bf16", {"precision": "bf16"}),
        ("torch:cuda:compiled", {"compiler": "inductor"}),
        ("torch:cuda:fused", {"precision": "", "fused": True}),
        ("torch:cuda:fp16:fused", {"precision": "fp16", "fused": True}),
        ("torch:cuda:fp32:fused", {"precision": "fp32", "fused": True}),
    ],
)
def test_its_words(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, word: str, options: dict[str, Any]) -> None:
    calls = []
    monkeypatch.setattr(session, "TorchCudaSession", lambda *given, **words: calls.append((given, words)))
    open_session(bundle, word)
    assert calls == [((bundle,), options)]
    with pytest.raises(BackendError, match="no backend 'torch:cuda:bf16:fused'"):
        open_session(bundle, "torch:cuda:bf16:fused")
