"""Engines, and torch:cuda, on the GPU against ONNX Runtime on the CPU: all shapes, precisions and forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from glip_export import Detector
from glip_export.parity.ladder import climb
from glip_export.parity.precision_check import compare_detections
from glip_export.parity.recall import together
from glip_export.parity.run import Outputs, broken_rules, run

FORMS: list[dict[str, Any]] = [
    {},
    {"deform_conv": "gridsample", "nms": "host"},
    {"deform_conv": "fused"},
    {"fused": True},
]


@pytest.fixture(params=FORMS, ids=["plugins", "native", "fused plugin", "fused"])
def forms(request: pytest.FixtureRequest, library: str) -> dict[str, Any]:
    words: dict[str, Any] = request.param
    if words == {"deform_conv": "fused"} and library == "stand-in":
        pytest.skip("the stand-in runs no plugins")
    if words and ("fused" in words) != (library == "torch:cuda"):
        pytest.skip(f"{library} has no such form")
    return words


def test_fp32_equals_onnxruntime(open_session: Any, reference: Any, cases: list[Any], open_bundle: Any, forms) -> None:
    config = open_bundle().config
    result = climb(reference, open_session("fp32", forms), config, cases)
    assert result.failures() == []


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precisions_find_the_detections_again(
    open_session: Any, reference: Any, cases: list[Any], open_bundle: Any, precision: str, forms: dict[str, Any]
) -> None:
    if precision == "bf16" and ("fused" in forms or "fused" in forms.values()):
        pytest.skip("our kernels have no bf16")
    config, session = open_bundle().config, open_session(precision, forms)
    diffs = []
    for case in cases:
        inputs = case.inputs(config)
        found, expected = run(session, inputs), run(reference, inputs)
        assert broken_rules(found, inputs, config) == ()  # no NaN, no infinity
        diffs.append(compare_detections(expected, found))
    recall = together(diffs)
    if precision == "bf16":  # whose 8 bits are too few for the rule on random weights: docs/precision.md
        assert recall.recall > 0.8
    else:
        assert recall.within(), f"{recall.found} of {recall.counted}"


def test_graph_replay_equals_plain_runs(open_session: Any, cases: list[Any], open_bundle: Any, forms: Any) -> None:
    config = open_bundle().config
    plain, graphs = open_session(forms=forms, cuda_graphs=0), open_session(forms=forms)
    for case in (cases[0], cases[2]):
        inputs = case.inputs(config)
        expected = arrays(run(plain, inputs))
        for turn in range(6):
            for one, other in zip(arrays(run(graphs, inputs)), expected, strict=True):
                np.testing.assert_array_equal(one, other, err_msg=f"turn {turn}")
    described = graphs.describe()
    assert described["cuda_graph_trouble"] == {}
    if "RTX" not in described["library"]:  # which makes its graphs itself
        assert min(described["cuda_graphs"].values()) > 0


def test_shapes_in_turn_leave_earlier_outputs_alone(open_session: Any, cases: list[Any], open_bundle: Any) -> None:
    config, session = open_bundle().config, open_session()
    first, other = (cases[index].inputs(config) for index in (0, 2))
    kept = run(session, first)
    before = arrays(kept)
    for _ in range(4):
        run(session, other)
    for one, two, three in zip(before, arrays(kept), arrays(run(session, first)), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def test_every_batch_size(open_session: Any, reference: Any, engines: Any) -> None:
    session, built = open_session(), engines("fp32")
    profiles = [{"images": {"max": [4]}}] if built is None else built.graphs["vision_backbone"].profiles
    largest = max(profile["images"]["max"][0] for profile in profiles)
    images = np.random.default_rng(0).standard_normal((largest, 3, 64, 96), np.float32)
    for batch in (1, largest, 1):
        features = session.vision_backbone(np.ascontiguousarray(images[:batch]))
        for level, expected in zip(features, reference.vision_backbone(images[:batch]), strict=True):
            np.testing.assert_allclose(np.asarray(level), expected, atol=1e-3 * np.abs(expected).max())


def test_batches_copied_ahead_are_the_same(open_session: Any) -> None:
    session = open_session()
    batches = [np.random.default_rng(seed).standard_normal((1, 3, 320, 320), np.float32) for seed in range(6)]
    expected = [np.asarray(session.vision_backbone(batch)[0]) for batch in batches]
    session.prefetch(batches[0])
    for index, batch in enumerate(batches):
        features = session.vision_backbone(batch)
        if index + 1 < len(batches):
            session.prefetch(batches[index + 1])
        np.testing.assert_array_equal(np.asarray(features[0]), expected[index])


def test_pictures_prepared_on_the_gpu(open_session: Any, open_bundle: Any) -> None:
    """They are the same bits, so the detections are."""
    session, config = open_session(), open_bundle().config
    pictures = [np.random.default_rng(seed).integers(0, 256, (90, 130, 3), dtype=np.uint8) for seed in range(3)]
    found, expected = (
        Detector(session, config, gpu_preprocess=on_gpu).detect(pictures, "cat. remote control", batch_size=1)
        for on_gpu in (True, False)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)


def arrays(outputs: Outputs) -> list[np.ndarray]:
    chunks = [[c.text_features, c.boxes, c.scores, c.labels, c.count] for c in outputs.chunks]
    return [np.asarray(array) for array in (*outputs.features, *(item for chunk in chunks for item in chunk))]
