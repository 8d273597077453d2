"""Detections of two backends: equal, noisy, wrong; fp32 and bf16 are held to different rules."""

from __future__ import annotations

from typing import Any

import numpy as np

from glip_export.bench.agreement import agree

D = 20


def one_call(seed: int = 0) -> dict[str, Any]:
    """Two pictures of D detections each, far apart, scores 0.9 falling by 0.03."""
    random = np.random.default_rng(seed)
    corners = (np.arange(D) * 40)[None, :, None] + random.uniform(0, 5, (2, D, 2))
    boxes = np.concatenate([corners, corners + random.uniform(10, 30, (2, D, 2))], axis=2)
    scores = np.tile(0.9 - 0.03 * np.arange(D), (2, 1))
    return {"boxes": boxes, "scores": scores, "labels": np.tile(np.arange(D) % 4, (2, 1))}


def changed(call: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: changes.get(name, array) for name, array in call.items()}


def test_equal_detections_agree() -> None:
    call = one_call()
    found = agree([call], [call], "fp32", 0.6)
    assert found.within and found.paired == 2 * D and found.real == 0
    assert found.max_box_diff_px == found.max_score_diff == 0


def test_the_largest_differences_are_told() -> None:
    call = one_call()
    boxes, scores = call["boxes"].copy(), call["scores"].copy()
    boxes[1, 3, 2] += 0.03
    scores[0, 5] -= 0.0005
    found = agree([call], [changed(call, boxes=boxes, scores=scores)], "fp32", 0.6)
    assert found.within
    np.testing.assert_allclose((found.max_box_diff_px, found.max_score_diff), (0.03, 0.0005), atol=1e-9)


def test_a_shift_of_a_pixel_is_out_of_tolerance_in_fp32_but_not_in_bf16() -> None:
    call = one_call()
    shifted = changed(call, boxes=call["boxes"] + 0.3)
    assert not agree([call], [shifted], "fp32", 0.6).within
    assert agree([call], [shifted], "bf16", 0.6).within


def test_a_wrong_backend_is_out_of_tolerance_at_any_precision() -> None:
    call = one_call()
    wrong = changed(call, labels=(call["labels"] + 1) % 4)
    for precision in ("fp32", "bf16", "fp16"):
        found = agree([call], [wrong], precision, 0.6)
        assert not found.within and found.found == 0


def test_bf16_may_lose_one_in_twenty_of_the_clear_ones() -> None:
    call = one_call()
    scores = call["scores"].copy()
    for lost, within in ((1, True), (2, False)):
        scores[0, :lost] -= 0.2  # 38 are clear of the last: 37 are over 95 %, 36 are not
        found = agree([call], [changed(call, scores=scores)], "bf16", 0.6)
        assert (found.clear, found.found, found.within) == (38, 38 - lost, within)


def test_nothing_agrees_with_a_reference_that_is_not_finite() -> None:
    call = changed(one_call(), scores=one_call()["scores"] * np.nan)
    for precision in ("fp32", "bf16"):
        assert not agree([call], [call], precision, 0.6).within


def test_empty_slots_and_empty_lists_compare() -> None:
    empty = {"boxes": np.zeros((1, 5, 4)), "scores": np.zeros((1, 5)), "labels": np.full((1, 5), -1)}
    for precision in ("fp32", "bf16"):
        found = agree([empty], [empty], precision, 0.6)
        assert found.within and found.paired == 0 and not found.compared


def test_vacuous_gate_the_only_detection_is_not_clear_of_any_other() -> None:
    """It stands nowhere above the last one kept, yet a backend that lost it is not right at any precision."""
    one = {"boxes": np.full((1, 3, 4), 9.0), "scores": np.zeros((1, 3)), "labels": np.full((1, 3), -1)}
    one["boxes"][0, 0], one["scores"][0, 0], one["labels"][0, 0] = (10, 10, 60, 60), 0.8, 1
    none = changed(one, labels=np.full((1, 3), -1))
    for precision in ("fp32", "bf16"):
        assert agree([one], [one], precision, 0.6).within and agree([one], [one], precision, 0.6).compared
        for pair in ((one, none), (none, one)):
            found = agree([pair[0]], [pair[1]], precision, 0.6)
            assert not found.within and found.compared and found.clear == 0
