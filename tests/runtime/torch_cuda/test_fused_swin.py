"""torch:cuda with whole Swin blocks in our kernels; for most tests PyTorch's own operations stand for these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from plugins.drawn_windows import drawn_windows
from plugins.host_kernels import HostKernels
from runtime.native.swin_blocks import block_of
from runtime.torch_cuda.host_device import open_on_host, use_host_kernels, use_host_swin
from runtime.torch_cuda.plain_swin import plain_window_attention, spread_out, use_plain_swin
from runtime.torch_cuda.recorded_calls import Calls

from glip_export.bundle import Bundle
from glip_export.graphs.contracts import graphs_of
from glip_export.graphs.fused_nodes import LOW_INPUTS
from glip_export.graphs.modules import Linear, ModuleGraph, Norm, SwinBlockModule
from glip_export.graphs.swin_node import SWIN_BLOCK, arranged, parameters_of
from glip_export.model.swin_block import Block
from glip_export.parity.cases import built_in_cases
from glip_export.parity.precision_check import compare_detections
from glip_export.parity.recall import together
from glip_export.parity.run import broken_rules, run
from glip_export.runtime.backends import open_session
from glip_export.runtime.torch_cuda import functions, windows
from glip_export.runtime.torch_cuda.program import Program
from glip_export.runtime.torch_cuda.session import FUSED, lowered

Attention = tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, int, float]


@pytest.fixture(scope="module", autouse=True)
def stand_in(host: HostKernels) -> Iterator[None]:
    use_host_kernels(host)
    use_plain_swin()
    yield
    use_host_swin(host)


@pytest.fixture
def kernels(host: HostKernels) -> Iterator[None]:
    use_host_swin(host)
    yield
    use_plain_swin()


@pytest.fixture(scope="module")
def bundle(demo_bundle: Path) -> Bundle:
    """Heads of 32 channels and windows of 8, as no kernel takes those of the small GLIP."""
    return Bundle.open(demo_bundle, verify=False)


def arguments_of(block: Block, dtype: torch.dtype) -> tuple[Any, ...]:
    """Those of `functions.swin_block` around x."""

    def linear(layer: Any) -> Linear:
        return Linear(layer.weight.detach().numpy(), layer.bias.detach().numpy())

    norms = [Norm(n.weight.detach().numpy(), n.bias.detach().numpy(), n.eps) for n in (block.norm1, block.norm2)]
    attention = block.attn
    module = SwinBlockModule(
        "", "", "", (norms[0], norms[1]), linear(attention.qkv), attention.scale,
        attention.relative_position_bias().detach().numpy(), bool(block.shift), linear(attention.proj),
        linear(block.mlp.fc1), linear(block.mlp.fc2),
    )  # fmt: skip
    low = [place - 1 for place in LOW_INPUTS[SWIN_BLOCK]]
    parameters = [
        torch.from_numpy(array).to(dtype if place in low else torch.float32)
        for place, array in enumerate(parameters_of(module).values())
    ]
    return block.window, block.shift, attention.scale, [norm.epsilon for norm in norms], parameters


def computed(block: Block, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The block in our operators."""
    *given, parameters = arguments_of(block, dtype)
    with torch.no_grad():
        return functions.swin_block(*given, x, *parameters)


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert (ours.float() - theirs).abs().max() <= tolerance * theirs.abs().max()


BLOCKS = [(64, 2, 7, True, (2, 9, 15)), (64, 4, 7, False, (1, 14, 7)), (96, 2, 4, True, (1, 3, 2))]


@pytest.mark.parametrize(("channels", "heads", "window", "shifted", "size"), [*BLOCKS, (64, 1, 8, True, (1, 8, 11))])
def test_the_plain_form_is_the_models_block(
    channels: int, heads: int, window: int, shifted: bool, size: tuple[int, ...]
) -> None:
    block = block_of(channels, heads, window, shifted)
    x = torch.randn(*size, channels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = block(x)
    close(computed(block, x, torch.float32), expected, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
@pytest.mark.parametrize(("channels", "heads", "window", "shifted", "size"), BLOCKS)
def test_the_kernels_are_the_models_block(
    kernels: None, dtype: torch.dtype, tolerance: float, channels: int, heads: int, window: int, shifted: bool,
    size: tuple[int, ...],
) -> None:  # fmt: skip
    block = block_of(channels, heads, window, shifted)
    x = torch.randn(*size, channels, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = block(x)
    close(computed(block, x, dtype), expected, tolerance)


def test_nine_calls_and_no_cast_or_copy_among_them() -> None:
    """On tensors without memory, whose shapes and types are known without running."""
    *given, parameters = arguments_of(block_of(64, 2, 7, True), torch.float16)
    x = torch.empty(2, 9, 15, 64, device="meta")
    with Calls() as calls, torch.no_grad():
        made = functions.swin_block(*given, x, *(parameter.to("meta") for parameter in parameters))
    assert (made.shape, made.dtype) == (x.shape, torch.float32)
    assert calls.names[len(parameters) :] == [
        "add_norm", "addmm", "window_attention", "mm", "add_norm", "addmm", "gelu", "mm", "add_norm",
    ]  # fmt: skip


def drawn(dtype: torch.dtype) -> Attention:
    """Arguments of the attention."""
    qkv, bias, relative = drawn_windows(2, 5, 9, 2, 16, 4)
    tensors = (torch.from_numpy(array).to(dtype) for array in (qkv, bias, arranged(relative)))
    return (*tensors, 4, 2, 0.25)  # type: ignore[return-value]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_shapes_are_known_without_running(kernels: None, dtype: torch.dtype, tolerance: float) -> None:
    arguments = drawn(dtype)
    close(windows.window_attention(*arguments), plain_window_attention(*arguments).float(), tolerance)
    torch.library.opcheck(windows.window_attention, arguments)


def test_relative_biases_keep_their_places() -> None:
    relative = drawn_windows(1, 1, 1, 3, 16, 5)[2]
    np.testing.assert_array_equal(spread_out(torch.from_numpy(arranged(relative)), 25).numpy(), relative)


def test_a_launch_goes_on_the_tensors_stream(monkeypatch: pytest.MonkeyPatch, host: HostKernels) -> None:
    """The operator as on a GPU, with the address of a tensor that is not contiguous."""

    def put(launches: Any, on: torch.Tensor) -> None:
        assert [host.launch(launch) for launch in launches] == [0]

    monkeypatch.setattr(windows, "put_on_stream", put)
    qkv, *others = drawn(torch.float16)
    made = windows.window_attention._init_fn(qkv.transpose(0, 1).contiguous().transpose(0, 1), *others)
    close(made, plain_window_attention(qkv, *others).float(), 2e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q, b, r, w, s: (q.double(), b, r, w, s), "float32 or float16, not torch.float64"),
        (lambda q, b, r, w, s: (q, b.half(), r, w, s), "torch.float16 on cpu beside torch.float32"),
        (lambda q, b, r, w, s: (q[0], b, r, w, s), "is not .B, H, W, 3C. of 2 heads"),
        (lambda q, b, r, w, s: (q[..., 1:], b[1:], r, w, s), "is not .B, H, W, 3C. of 2 heads"),
        (lambda q, b, r, w, s: (q, b[3:], r, w, s), "is not .B, H, W, 3C. of 2 heads"),
        (lambda q, b, r, w, s: (q, b, r[:0], w, s), "0 heads"),
        (lambda q, b, r, w, s: (q, b, r[:1], w, s), None),
        (lambda q, b, r, w, s: (q, b, r, 5, s), "the relative biases are"),
        (lambda q, b, r, w, s: (q, b, r, w, 4), "windows of 4 shifted by 4"),
    ],
)
def test_arguments_that_no_kernel_may_see(change: Callable[..., Any], words: str | None) -> None:
    *given, scale = drawn(torch.float32)
    if words is None:  # another number of heads is another attention
        assert windows.checked_windows(*change(*given)).depth == 32
        return
    with pytest.raises(ValueError, match=words):
        windows.window_attention._init_fn(*change(*given), scale)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("fp16", 1e-2)])
@pytest.mark.parametrize("size", [(64, 96), (160, 128)])
def test_the_backbone(bundle: Bundle, precision: str, tolerance: float, size: tuple[int, int]) -> None:
    """The first run of a size, and one that makes the calls."""
    spec = graphs_of(bundle.config)["vision_backbone"]
    images = np.random.default_rng(size[0]).standard_normal((2, 3, *size), np.float32)
    inputs = {"images": torch.from_numpy(images)}
    plain, fused = (Program(lowered(bundle, spec, precision, fused), torch.device("cpu"), "") for fused in ((), FUSED))
    assert sum(node.op_type == SWIN_BLOCK for node in fused.nodes) == sum(bundle.config.swin.depths)
    assert not [node for node in fused.nodes if node.op_type == "Softmax"]

    def results(program: Program) -> list[torch.Tensor]:
        plan = program.plan(tuple(tuple(inputs[name].shape) for name in program.inputs))
        return [level.float() for level in plan.run(inputs)]

    expected = results(plain)
    for _ in range(2):
        for ours, theirs in zip(results(fused), expected, strict=True):
            close(ours, theirs, tolerance)


def test_fp16_finds_the_clear_detections(kernels: None, bundle: Bundle, host: HostKernels) -> None:
    reference = open_session(bundle, "onnxruntime", threads=1)
    fused = open_on_host(bundle, host, "fp16", fused=True)
    diffs = []
    for case in built_in_cases(bundle.config)[:2]:
        inputs = case.inputs(bundle.config)
        found, expected = run(fused, inputs), run(reference, inputs)
        assert broken_rules(found, inputs, bundle.config) == ()
        diffs.append(compare_detections(expected, found))
    assert together(diffs).within(), f"{together(diffs).found} of {together(diffs).counted}"


def test_blocks_without_a_kernel_are_left(tiny_bundle: Path) -> None:
    """Heads of 12 and 24 channels, beside DyConv blocks that have kernels."""
    bundle = Bundle.open(tiny_bundle, verify=False)
    model = lowered(bundle, graphs_of(bundle.config)["vision_backbone"], "fp16", FUSED)
    blocks = list(ModuleGraph(onnx_ir.load(bundle.graph_path("vision_backbone"))).swin_blocks())
    assert blocks
    assert sum(node.op_type == "Softmax" for node in model.graph) == len(blocks)
