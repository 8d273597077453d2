"""The predictions of all levels at once, against each level's own nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
import torch
from onnx_ir.passes import common
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import use_host_dyconv, use_host_kernels
from runtime.torch_cuda.plain_dyconv import use_plain_dyconv

from glip_export.bundle import Bundle
from glip_export.graphs.contracts import graphs_of, pyramid_axes
from glip_export.runtime.torch_cuda import session
from glip_export.runtime.torch_cuda.program import Program
from glip_export.trt.joined_levels import join_levels
from glip_export.trt.nodes import CANDIDATES


@pytest.fixture(scope="module", autouse=True)
def stand_in(host: HostKernels) -> Iterator[None]:
    use_host_kernels(host)
    use_plain_dyconv()
    yield
    use_host_dyconv(host)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


@pytest.fixture
def head(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], onnx_ir.Model]:
    """The fused head of a precision before the levels are joined."""
    monkeypatch.setattr(session, "join_levels", lambda _: False)
    return lambda precision: session.lowered(bundle, graphs_of(bundle.config)["fusion_head"], precision, session.FUSED)


def predictions(model: onnx_ir.Model) -> Program:
    """Up to what the candidates are found from."""
    node = candidates_of(model)
    model.graph.outputs[:] = [value for value in node.inputs[:-1] if value is not None]
    common.RemoveUnusedNodesPass()(model)
    return Program(model, torch.device("cpu"))


def candidates_of(model: onnx_ir.Model) -> onnx_ir.Node:
    return next(node for node in model.graph if node.op_type == CANDIDATES)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3)])
@pytest.mark.parametrize("batch", [1, 2])
def test_every_levels_predictions_are_the_same(
    bundle: Bundle, head: Callable[[str], onnx_ir.Model], precision: str, tolerance: float, batch: int
) -> None:
    """On the run that finds the calls and on one that makes them."""
    joined = head(precision)
    assert join_levels(joined)
    programs = [predictions(head(precision)), predictions(joined)]
    config, axes, tokens, rng = bundle.config, pyramid_axes(64, 96), 9, np.random.default_rng(0)
    shapes = {f"p{i}": (batch, config.head.channels, axes[f"H{i}"], axes[f"W{i}"]) for i in range(3, 8)}
    shapes["text_features"] = (batch, tokens, config.text.bert.hidden_size)
    given = {
        **{name: torch.from_numpy(rng.standard_normal(shape, np.float32)) for name, shape in shapes.items()},
        "attention_mask": torch.ones(batch, tokens, dtype=torch.int64),
        "class_map": torch.eye(tokens, 4)[None].repeat(batch, 1, 1),
        "image_sizes": torch.tensor([[64, 96]] * batch),
    }
    for _ in range(2):
        plain, ours = (
            program.plan(tuple(tuple(given[name].shape) for name in program.inputs)).run(given) for program in programs
        )
        assert len(ours) == len(plain) == 15
        for one, other in zip(ours, plain, strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.abs().max()))
            contiguous = one if one.ndim == 3 or one.shape[1] == 1 else one.permute(0, 2, 3, 1)
            assert contiguous.is_contiguous() or batch > 1  # our kernels read it where it is


def test_each_step_stands_once(head: Callable[[str], onnx_ir.Model]) -> None:
    model = head("fp16")
    before = [node.op_type for node in model.graph]
    assert join_levels(model)
    after = [node.op_type for node in model.graph]
    gone = {kind: before.count(kind) - after.count(kind) for kind in ("Sigmoid", "Clip", "Div", "MatMul", "Conv")}
    assert gone == {"Sigmoid": 4, "Clip": 4, "Div": 4, "MatMul": 8, "Conv": 10} and after.count("Gemm") == 2


def test_levels_that_differ_stay(head: Callable[[str], onnx_ir.Model]) -> None:
    def other_weight(model: onnx_ir.Model, node: onnx_ir.Node) -> None:
        last = node.inputs[-2].producer()
        twin = onnx_ir.Value(name="twin", const_value=last.inputs[1].const_value)
        last.replace_input_with(1, twin)

    def other_step(model: onnx_ir.Model, node: onnx_ir.Node) -> None:
        scores = node.inputs[1].producer()
        sigmoid = scores.inputs[0].producer()
        scores.replace_input_with(0, sigmoid.inputs[0])

    def no_node(model: onnx_ir.Model, node: onnx_ir.Node) -> None:
        node.op_type = "Other"

    for change in (other_weight, other_step, no_node):
        model = head("fp32")
        change(model, candidates_of(model))
        nodes = list(model.graph)
        assert not join_levels(model) and list(model.graph) == nodes
