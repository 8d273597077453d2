"""The selection before the NMS as one node: in our kernels against PyTorch's own operations, and in whole heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir
import pytest
import torch
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import open_on_host, use_host_kernels
from selection_graph import SELECTION, SIZES, STRIDES, Selection, exported, predictions

from glip_export.bundle import Bundle
from glip_export.config import DetectionConfig, GlipConfig
from glip_export.graphs.contracts import FUSION_HEAD, graphs_of
from glip_export.graphs.precision import convert
from glip_export.model.boxes import anchors_at, clip, decode
from glip_export.model.graph_ops import top_k
from glip_export.runtime.torch_cuda import candidates
from glip_export.runtime.torch_cuda.program import Program
from glip_export.trt.candidates_node import fuse_candidates
from glip_export.trt.lowering import lower
from glip_export.trt.nodes import CANDIDATES

SIDES = ((9, 14), (5, 7), (3, 4))
ANCHORS, STEPS, SCALES = [64.0, 90.5, 256.0], [8, 16, 32], [1.0, 1.25, 0.5]
THRESHOLD, K, BEST = 0.05, 5, 40
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def stand_in(host: HostKernels) -> None:
    use_host_kernels(host)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


def drawn(dtype: torch.dtype = torch.float32, batch: int = 2) -> tuple[Any, ...]:
    """Arguments of the operator; the middle level's deltas have their channels last."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    classes = [(draw(batch, height * width, K) * 2 - 3).sigmoid() for height, width in SIDES]
    centerness = [draw(batch, 1, *side).to(dtype) for side in SIDES]
    deltas = [(draw(batch, 4, *side) * 2).to(dtype) for side in SIDES]
    deltas[1] = deltas[1].contiguous(memory_format=torch.channels_last)
    sizes = torch.tensor([[70 - 9 * image, 110 + image] for image in range(batch)])
    return classes, centerness, deltas, sizes, THRESHOLD, BEST, ANCHORS, STEPS, SCALES


def plain_candidates(
    classes: list[torch.Tensor],
    centerness: list[torch.Tensor],
    deltas: list[torch.Tensor],
    image_sizes: torch.Tensor,
    threshold: float,
    k: int,
    *anchors: list[Any],
) -> list[torch.Tensor]:
    """`model.selection.level_candidates` of every level, of the operator's arguments."""
    parts = []
    for scores, centre, delta, size, stride, scale in zip(classes, centerness, deltas, *anchors, strict=True):
        product = scores * centre.float().flatten(1).sigmoid()[:, :, None]
        chosen = torch.where(scores > threshold, product, -1).flatten(1)
        values, index = top_k(torch.nn.functional.pad(chosen, (0, k), value=-1), k)
        position = (index // scores.shape[2]).clamp(max=scores.shape[1] - 1)
        moves = (delta.float() * scale).flatten(2).transpose(1, 2).gather(1, position[:, :, None].expand(-1, -1, 4))
        boxes = clip(decode(moves, anchors_at(position, delta.shape[3], size, stride)), image_sizes)
        parts.append((boxes, torch.where(values >= 0, values.clamp(min=0).sqrt(), -1), index % scores.shape[2]))
    return [torch.cat(part, dim=1) for part in zip(*parts, strict=True)]


def same(made: Any, expected: Any) -> None:
    """Where there are candidates; PyTorch's exponential may differ in its last bit."""
    boxes, scores, labels = made
    found = expected[1] >= 0
    assert found.any() and not found.all()
    torch.testing.assert_close(scores, expected[1], rtol=1e-6, atol=0)
    assert torch.equal(labels[found].long(), expected[2][found])
    torch.testing.assert_close(boxes[found], expected[0][found], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_operator_is_the_plain_form(dtype: torch.dtype, batch: int) -> None:
    arguments = drawn(dtype, batch)
    same(candidates.candidates(*arguments), plain_candidates(*arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_shapes_and_order_are_known_without_running(dtype: torch.dtype) -> None:
    arguments = drawn(dtype)
    torch.library.opcheck(candidates.candidates, arguments, test_utils=("test_schema", "test_faketensor"))
    shapes = [(2, 3 * BEST, 4), (2, 3 * BEST), (2, 3 * BEST)]
    for made in (candidates.candidates(*arguments), candidates._empty_candidates(*arguments)):
        assert [tuple(part.shape) for part in made] == shapes
        assert [part.dtype for part in made] == [torch.float32, torch.float32, torch.int32]


def test_launches_go_on_the_tensors_stream(monkeypatch: pytest.MonkeyPatch, host: HostKernels) -> None:
    """The operator as on a GPU, with addresses of tensors that are not contiguous."""

    def put(launches: Any, on: torch.Tensor) -> None:
        assert [host.launch(launch) for launch in launches] == [0] * 7

    monkeypatch.setattr(candidates, "put_on_stream", put)
    classes, *others = drawn(torch.float16)
    strided = [scores.transpose(1, 2).contiguous().transpose(1, 2) for scores in classes]
    same(candidates.candidates._init_fn(strided, *others), plain_candidates(classes, *others))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, s, d, i, *rest: (c, s, [d[0].half(), *d[1:]], i, *rest), "all float32 or float16"),
        (lambda c, s, d, i, *rest: (c, [x.double() for x in s], [x.double() for x in d], i, *rest), "all float32"),
        (lambda c, s, d, i, *rest: ([x.half() for x in c], s, d, i, *rest), "float32 scores"),
        (lambda c, s, d, i, *rest: (c, s, d, i.int(), *rest), "sizes in int64"),
        (lambda c, s, d, i, *rest: (c, s, d, i[:1], *rest), "the sizes of 2 pictures are given as"),
        (lambda c, s, d, i, *rest: ([c[1], *c[1:]], s, d, i, *rest), "a level's classes, centerness and deltas are"),
        (lambda c, s, d, i, *rest: (c, d, d, i, *rest), "a level's classes, centerness and deltas are"),
    ],
)
def test_arguments_that_no_kernel_may_see(change: Callable[..., Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        candidates.candidates._init_fn(*change(*drawn()))


def head(bundle: Bundle, precision: str) -> onnx_ir.Model:
    spec = graphs_of(bundle.config)["fusion_head"]
    return lower(convert(onnx_ir.load(bundle.graph_path("fusion_head")), spec, precision), spec, bundle.config)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "FLOAT"), ("fp16", "FLOAT16"), ("bf16", "FLOAT")])
def test_the_node_takes_what_the_convolutions_give(bundle: Bundle, precision: str, dtype: str) -> None:
    model, config = head(bundle, precision), bundle.config.detection
    assert fuse_candidates(model, config)
    (node,) = (node for node in model.graph if node.op_type == CANDIDATES)
    levels = len(config.anchor_strides)
    classes, maps = node.inputs[:levels], node.inputs[levels:-1]
    assert {str(value.dtype) for value in classes} == {"FLOAT"} and {str(value.dtype) for value in maps} == {dtype}
    if precision != "bf16":  # which no kernel reads
        assert {value.producer().op_type for value in maps} == {"Conv"}
    assert "TopK" not in {other.op_type for other in model.graph} and not fuse_candidates(model, config)


@pytest.mark.parametrize(
    "change",
    [
        {"score_threshold": 0.06},
        {"pre_nms_top_n": 7},
        {"anchor_sizes": (1.0, 2.0, 3.0, 4.0, 5.0)},
        {"anchor_strides": (8, 16, 32, 64, 100)},
        {"anchor_strides": (8, 16), "anchor_sizes": (64.0, 128.0)},
    ],
)
def test_another_selection_stays(bundle: Bundle, change: dict[str, Any]) -> None:
    model = head(bundle, "fp32")
    nodes = list(model.graph)
    assert not fuse_candidates(model, replace(bundle.config.detection, **change))
    assert list(model.graph) == nodes


@pytest.mark.parametrize("aggregation", ["MEAN", "MAX", "POWER"])
def test_every_way_to_score_a_class(aggregation: str) -> None:
    """On both runs: the one that finds the calls and the one that makes them."""
    detection = DetectionConfig(
        score_agg=aggregation, pre_nms_top_n=30, detections_per_image=20, anchor_sizes=SIZES, anchor_strides=STRIDES
    )
    config, module = replace(GlipConfig(), detection=detection), Selection(detection).eval()
    model = lower(exported(module, config), FUSION_HEAD, config)
    assert fuse_candidates(model, detection)
    program = Program(model, CPU)
    for seed, tokens, classes in ((1, 9, 3), (2, 40, 7), (3, 5, 2)):
        arrays = [torch.from_numpy(array) for array in predictions(aggregation, seed, tokens, classes)]
        expected = module(*arrays)
        assert expected[3].sum() > 0
        for _ in range(2):
            plan = program.plan(tuple(tuple(array.shape) for array in arrays))
            made = plan.run(dict(zip(SELECTION.input_names, arrays, strict=True)))
            for ours, theirs in zip(made, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)  # pixels; labels are the same


def test_a_head_of_several_scales_stays(several_scales_bundle: Path) -> None:
    bundle = Bundle.open(several_scales_bundle, verify=False)
    model = head(bundle, "fp32")
    assert not fuse_candidates(model, bundle.config.detection)


def test_the_session_has_the_node(bundle: Bundle, host: HostKernels) -> None:
    def kinds(fused: bool) -> set[str]:
        session = open_on_host(bundle, host, fused=fused)
        return {node.op_type for node in session._runners["fusion_head"]._program.nodes}

    assert CANDIDATES in kinds(True) and CANDIDATES not in kinds(False)
