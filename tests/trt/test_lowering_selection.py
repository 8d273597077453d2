"""The selection alone, with each way to aggregate tokens: plugin, native or host NMS, and the bundle's form of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from candidates import EDGES, edge_candidates, random_candidates, selected
from onnx import TensorProto, helper
from selection_graph import SELECTION, SIZES, STRIDES, Selection, exported, predictions
from static_shapes import data_dependent

from glip_export.config import DetectionConfig, GlipConfig
from glip_export.graphs.contracts import FUSION_HEAD
from glip_export.runtime.host_nms import finish
from glip_export.trt.function_calls import inline
from glip_export.trt.functions import GlipNms
from glip_export.trt.lowering import lower, with_reference_functions
from glip_export.trt.native_nms import class_wise_nms
from glip_export.trt.nodes import DOMAIN, NMS, NMS_FORMS, OPSET


def session(model: onnx_ir.Model) -> onnxruntime.InferenceSession:
    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Forms:
    """One aggregation's selection: as exported, and lowered."""

    def __init__(self, aggregation: str) -> None:
        detection = DetectionConfig(
            score_agg=aggregation, pre_nms_top_n=30, detections_per_image=20, anchor_sizes=SIZES, anchor_strides=STRIDES
        )
        self.aggregation = aggregation
        self.config = replace(GlipConfig(), detection=detection)
        self.module = Selection(detection).eval()
        self.exported = exported(self.module, self.config)
        self.lowered = {nms: lower(self.exported, FUSION_HEAD, self.config, nms=nms) for nms in NMS_FORMS}
        self.sessions = {"exported": session(self.exported)}
        for nms, lowered in self.lowered.items():
            self.sessions[nms] = session(with_reference_functions(lowered))

    def run(self, form: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
        given = self.sessions[form].run(None, dict(zip(SELECTION.input_names, arrays, strict=True)))
        detection = self.config.detection
        return (
            list(finish(*given, detection.nms_threshold, detection.detections_per_image)) if form == "host" else given
        )


@pytest.fixture(scope="module", params=["MAX", "POWER"])
def forms(request: pytest.FixtureRequest) -> Forms:
    return Forms(request.param)


@pytest.mark.parametrize("tokens", [2, 3, 15, 16, 17, 31, 33, 100, 256])
@pytest.mark.parametrize("classes", [2, 7])
def test_equals_the_exported_graph_and_the_model(forms: Forms, tokens: int, classes: int) -> None:
    arrays = predictions(forms.aggregation, tokens + classes, tokens, classes)
    model = [part.numpy() for part in forms.module(*map(torch.from_numpy, arrays))]
    exported = forms.run("exported", arrays)
    assert exported[3].sum() > 0
    for nms in NMS_FORMS:
        for theirs, ours, torchs in zip(exported, forms.run(nms, arrays), model, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
            np.testing.assert_allclose(ours, torchs, atol=1e-3)  # pixels; ranks are the same, labels too


def test_no_candidate(forms: Forms) -> None:
    arrays = predictions(forms.aggregation, 0, 5, 3)
    arrays[0][:], arrays[1][:] = -20, -20
    for nms in NMS_FORMS:
        boxes, scores, labels, count = forms.run(nms, arrays)
        assert not boxes.any() and not scores.any() and (labels == -1).all() and not count.any()


def test_no_shape_depends_on_values(forms: Forms) -> None:
    found = set(data_dependent(forms.exported.graph))
    assert "NonMaxSuppression" in found
    assert ("TopK" in found) == (forms.aggregation == "MAX")  # as many tokens as the largest class has
    for nms, lowered in forms.lowered.items():
        # How often the loop runs depends on values, what it carries has one shape.
        assert set(data_dependent(lowered.graph)) == ({"Loop"} if nms == "native" else set())


def one_nms(threshold: float, detections: int, native: bool) -> onnxruntime.InferenceSession:
    inputs = {"boxes": ["B", "M", 4], "scores": ["B", "M"], "labels": ["B", "M"]}
    outputs = {"best": ["B", None, 4], "top": ["B", None], "classes": ["B", None], "count": ["B"]}
    types = dict.fromkeys((*inputs, *outputs), TensorProto.FLOAT)
    types |= dict.fromkeys(("labels", "classes", "count"), TensorProto.INT32)
    node = helper.make_node(
        NMS, list(inputs), list(outputs), domain=DOMAIN, iou_threshold=threshold, max_detections=detections
    )
    values = [[helper.make_tensor_value_info(k, types[k], v) for k, v in part.items()] for part in (inputs, outputs)]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, OPSET)]
    proto = helper.make_model(helper.make_graph([node], "nms", *values), opset_imports=imports, ir_version=10)
    model = onnx_ir.from_proto(proto)
    if not native:
        return session(with_reference_functions(model))
    inline(model, [GlipNms, class_wise_nms])
    assert not any(node.domain or node.op_type == "NonMaxSuppression" for node in model.graph)
    return session(model)


def check_nms(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, threshold: float, detections: int, native: bool = False
) -> None:
    given = one_nms(threshold, detections, native).run(None, {"boxes": boxes, "scores": scores, "labels": labels})
    for theirs, ours in zip(selected(boxes, scores, labels, threshold, detections), given, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("tens", range(10))
@pytest.mark.parametrize("native", [False, True])
def test_the_plugins_reference_equals_the_model(tens: int, native: bool) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        check_nms(*random_candidates(seed), native)


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("native", [False, True])
def test_the_plugins_reference_at_the_edges(name: str, native: bool) -> None:
    check_nms(*edge_candidates(name), native)


@pytest.mark.parametrize("length", [1, 2, 40])
def test_a_chain_of_rivals(length: int) -> None:
    """Each box overlaps the next alone: every second stays, and whether the last does is known after all rounds."""
    left = 4 * np.arange(length, dtype=np.float32)
    boxes = np.stack([left, left * 0, left + 9, left * 0 + 9], axis=1)[None]
    scores = np.linspace(1, 0.5, length, dtype=np.float32)[None]
    check_nms(boxes, scores, np.zeros((1, length), np.int32), 0.4, length, native=True)
    _, _, _, count = one_nms(0.4, length, native=True).run(
        None, {"boxes": boxes, "scores": scores, "labels": np.zeros((1, length), np.int32)}
    )
    assert count == -(-length // 2)
