from typing import Any

import numpy as np
import pytest
from parity.fakes import CONFIG, DETECTIONS, Change, FakeSession, cases, noise

from glip_export.graphs.contracts import LEVELS
from glip_export.parity.ladder import climb, climb_all
from glip_export.parity.metrics import Tolerance


def test_a_session_equals_itself() -> None:
    result = climb(FakeSession("torch"), FakeSession("onnxruntime"), CONFIG, cases(), Tolerance(relative=0))
    assert result.failures() == []
    assert result.passed
    assert (result.reference, result.backend) == ("torch", "onnxruntime")
    assert list(result.worst()) == ["text_features", *LEVELS]
    assert [(picture.reference, picture.paired) for picture in result.pictures()] == [(DETECTIONS, DETECTIONS)] * 3


def test_rounding_passes_and_is_measured() -> None:
    candidate = FakeSession("onnxruntime", {name: noise(1e-6) for name in ("text_features", *LEVELS, "boxes")})
    result = climb(FakeSession("torch"), candidate, CONFIG, cases())
    assert result.failures() == []
    assert all(1e-7 < diff.relative < 1e-4 for _, diff in result.worst().values())
    assert 0 < max(picture.box_px for picture in result.pictures()) < 1e-3


@pytest.mark.parametrize("output", ["text_features", *LEVELS])
def test_a_changed_output_fails_by_its_name(output: str) -> None:
    candidate = FakeSession("onnxruntime", {output: lambda array: array * np.float32(1.01)})
    failures = climb(FakeSession("torch"), candidate, CONFIG, cases()).failures()
    assert any(line.startswith(f"one: {output}: max|difference| / rms") for line in failures)
    named = {line.split(": ")[1] for line in failures}
    assert named <= {output, "detections"}


def test_what_stands_at_padded_tokens_does_not_matter() -> None:
    def change(array: Any) -> Any:
        array = array.copy()
        array[:, -3:] += np.float32(0.5)
        return array

    one, two = cases()
    assert climb(FakeSession("torch"), FakeSession("b", {"text_features": change}), CONFIG, [two]).passed
    assert not climb(FakeSession("torch"), FakeSession("b", {"text_features": change}), CONFIG, [one]).passed


@pytest.mark.parametrize("output", ["text_features", "p5", "boxes", "scores"])
def test_one_nan_fails_by_its_name(output: str) -> None:
    def change(array: Any) -> Any:
        array = array.copy()
        array.flat[-1] = np.nan
        return array

    failures = climb(FakeSession("torch"), FakeSession("b", {output: change}), CONFIG, cases()).failures()
    assert any(line.startswith(f"two: {output}: 1 of ") and "NaN" in line for line in failures)


def test_a_dropped_detection_is_real() -> None:
    def empty_slot(value: int) -> Change:
        return lambda array: np.concatenate([array[:, :5], array[:, 6:], np.full_like(array[:, :1], value)], axis=1)

    changes: dict[str, Change] = {"boxes": empty_slot(0), "scores": empty_slot(0), "labels": empty_slot(-1)}
    changes["count"] = lambda count: count - 1
    result = climb(FakeSession("torch"), FakeSession("b", changes), CONFIG, cases())
    assert result.cases[0].failures(Tolerance()) == ["detections: picture 0: 1 missing and 0 new beyond noise"]
    assert [item.side for item in result.cases[0].pictures[0].real] == ["reference"]


@pytest.mark.parametrize(
    ("output", "change", "rule"),
    [
        ("scores", lambda scores: scores[:, ::-1], "scores: not falling"),
        ("labels", lambda labels: labels + 50, "labels: outside -1 .. 0"),
        ("labels", lambda labels: labels.astype(np.int32), "labels: int32 instead of int64"),
        ("count", lambda count: count - 1, "count: not the number of labels in front of the empty slots"),
        ("boxes", lambda boxes: boxes + 40, "boxes: outside the picture"),
        (
            "boxes",
            lambda boxes: boxes[:, :-1],
            f"boxes: shape (1, {DETECTIONS - 1}, 4) instead of (1, {DETECTIONS}, 4)",
        ),
        ("p7", lambda p7: p7[:, :2], "p7: shape (1, 2, 1, 1) instead of (1, 4, 1, 1)"),
        ("p7", lambda p7: p7.astype(np.float64), "p7: float64 instead of float32"),
    ],
)
def test_outputs_that_break_the_contract_are_named(output: str, change: Change, rule: str) -> None:
    result = climb(FakeSession("torch"), FakeSession("b", {output: change}), CONFIG, cases())
    assert rule in result.cases[0].failures(Tolerance())
    assert not result.passed


def test_batch_dependence_is_found() -> None:
    def leak(array: Any) -> Any:
        return array if len(array) == 1 else array + np.float32(0.1) * array.mean(axis=0, keepdims=True)

    one = cases()[:1]
    result = climb(FakeSession("torch"), FakeSession("b", {"p4": leak}), CONFIG, one)
    assert result.cases[0].failures(Tolerance()) == []
    assert [line.split(": ")[:2] for line in result.failures()] == [["batch invariance", "p4"]]


def test_a_mix_up_of_a_batchs_pictures_is_found() -> None:
    mixed = FakeSession("b", {"p3": lambda p3: np.roll(p3, 1, axis=0)})  # the middle one is another picture
    found = climb(FakeSession("torch"), mixed, CONFIG, cases()[:1])
    assert found.cases[0].failures(Tolerance()) == []
    lines = found.batch_invariance.failures(Tolerance())
    assert [line.split(":")[0] for line in lines] == ["p3", "detections"]


def test_a_candidate_that_raises_fails_the_case_and_the_rest_goes_on() -> None:
    def refuse(array: Any) -> Any:
        if len(array) == 2:
            raise RuntimeError("Non-zero status code\nreturned")
        return array

    result = climb(FakeSession("torch"), FakeSession("b", {"p3": refuse}), CONFIG, cases())
    assert result.failures() == ["two: stopped: RuntimeError: Non-zero status code returned"]


def test_a_broken_reference_is_not_the_candidates_failure() -> None:
    def refuse(array: Any) -> Any:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        climb(FakeSession("torch", {"p3": refuse}), FakeSession("b"), CONFIG, cases())


def test_a_reference_of_nan_proves_nothing() -> None:
    broken = {"p6": lambda p6: np.full_like(p6, np.nan)}
    result = climb(FakeSession("torch", broken), FakeSession("b"), CONFIG, cases())
    assert "values of the reference itself are NaN or infinite" in result.failures()[0]


def test_the_reference_runs_each_case_once_for_all_candidates() -> None:
    reference = FakeSession("torch")
    told: list[str] = []
    results = climb_all(reference, [FakeSession("b"), FakeSession("c")], CONFIG, cases(), progress=told.append)
    assert [result.backend for result in results] == ["b", "c"]
    assert reference.calls == ["vision_backbone", "text_encoder", "fusion_head"] * 2
    assert told == [
        "one: torch",
        "one: b",
        "one: c",
        *(f"batch invariance: {x}" for x in "bc"),
        "two: torch",
        "two: b",
        "two: c",
    ]


def test_batch_invariance_is_tried_without_a_single_picture_too() -> None:
    candidate = FakeSession("b")
    result = climb(FakeSession("torch"), candidate, CONFIG, cases()[1:])
    assert result.passed
    assert len(result.batch_invariance.tensors) == 6


def test_no_case_is_no_pass() -> None:
    assert not climb(FakeSession("torch"), FakeSession("b"), CONFIG, []).passed
