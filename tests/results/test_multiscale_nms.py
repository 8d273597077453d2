"""Merging the boxes of several passes, as the original does."""

from __future__ import annotations

from dataclasses import replace

import multiscale_oracle as oracle
import numpy as np
import pytest

from glip_export.config import MultiscaleConfig
from glip_export.results.multiscale_nms import Boxes, lost_classes, merged, nms, soft_nms, vote

NONE = MultiscaleConfig()


def boxes_of(*rows: tuple[float, ...], labels: tuple[int, ...] = ()) -> Boxes:
    """Rows of x1, y1, x2, y2, score."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Boxes(table[:, :4], table[:, 4], np.array(labels or (0,) * len(rows), np.int64))


def ordered(found: Boxes) -> np.ndarray:
    """Rows that do not depend on how ties of score are ordered."""
    rows = np.column_stack([found.labels, found.scores, found.boxes]).astype(np.float64)
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize("form", oracle.FORMS)
def test_equals_the_original(form: str) -> None:
    found, expected = merged(oracle.merged_input(), oracle.settings(form)), oracle.result(form)
    assert (
        len(found.scores) == len(expected.scores) == {"none": 682, "vote": 638, "soft-vote": 900, "soft-nms": 9}[form]
    )
    np.testing.assert_array_equal(np.bincount(found.labels), np.bincount(expected.labels))
    ours, theirs = ordered(found), ordered(expected)
    np.testing.assert_allclose(ours[:, :2], theirs[:, :2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours[:, 2:], theirs[:, 2:], rtol=0, atol=1e-4)
    assert (np.diff(found.scores) <= 0).all()


def test_the_cap_bites_in_soft_vote_only() -> None:
    without = replace(oracle.settings("soft-vote"), most=0)
    assert len(merged(oracle.merged_input(), without).scores) > 900
    capped = merged(oracle.merged_input(), replace(without, most=5))
    assert len(capped.scores) == 5


def test_ties_at_the_cap_stay() -> None:
    apart = [(100.0 * n, 0, 100.0 * n + 9, 9, score) for n, score in enumerate((0.9, 0.5, 0.5, 0.5, 0.3))]
    found = merged(boxes_of(*apart), replace(NONE, most=2))
    np.testing.assert_array_equal(found.scores, np.array([0.9, 0.5, 0.5, 0.5], np.float32))


@pytest.mark.parametrize("form", [*oracle.FORMS, "another word"])
def test_a_threshold_of_zero_merges_nothing(form: str) -> None:
    given = oracle.merged_input().part(np.arange(50))
    found = merged(given, replace(NONE, special_nms=form, threshold=0))
    np.testing.assert_array_equal(ordered(found), ordered(given))


def test_another_word_is_plain_nms() -> None:
    one, other = (merged(oracle.merged_input(), oracle.settings(word)) for word in ("none", "softer-nms"))
    np.testing.assert_array_equal(one.boxes, other.boxes)


@pytest.mark.parametrize("form", oracle.FORMS)
def test_nothing_and_a_single_box(form: str) -> None:
    config = replace(NONE, special_nms=form)
    assert len(merged(boxes_of(), config).scores) == 0
    single = boxes_of((1, 2, 3, 4, 0.07))
    np.testing.assert_array_equal(ordered(merged(single, config)), ordered(single))


def test_classes_do_not_meet() -> None:
    same = boxes_of((0, 0, 9, 9, 0.9), (0, 0, 9, 9, 0.8), (0, 0, 9, 9, 0.7), labels=(1, 0, 1))
    found = merged(same, NONE)
    assert found.labels.tolist() == [1, 0] and found.scores.tolist() == pytest.approx([0.9, 0.8])


def test_nms_counts_without_the_added_one() -> None:
    # 10 x 10 and 10 x 6 in it: 0.6 without 1 added, which is not over 0.6 in float64; 77 / 121 = 0.64 with it.
    given = boxes_of((0, 0, 10, 10, 0.9), (0, 0, 10, 6, 0.8), (0, 0, 10, 6.1, 0.7))
    boxes, scores = nms(given.boxes, given.scores, 0.61)
    assert len(scores) == 2  # the second suppresses the third, and the first none
    assert boxes[1, 3] == 6
    assert len(nms(given.boxes[:2], given.scores[:2], 0.6)[1]) == 1  # float32(0.6) is over 0.6, as in torchvision
    points = boxes_of((5, 5, 5, 5, 0.9), (5, 5, 5, 5, 0.8))
    assert len(nms(points.boxes, points.scores, 0.6)[1]) == 2  # 0 / 0 suppresses nothing


def test_of_equal_scores_the_earlier_stays_in_nms_and_the_later_leads_in_votes() -> None:
    given = boxes_of((0, 0, 10, 10, 0.5), (0, 0, 10, 9, 0.5))
    assert nms(given.boxes, given.scores, 0.6)[0].tolist() == [[0, 0, 10, 10]]
    # The later one, 110 in area, meets the third by 66 / 110 = 0.6, and the earlier one by 66 / 121.
    third = boxes_of((0, 0, 10, 5, 0.4))
    boxes, scores = (np.concatenate(both) for both in zip(given[:2], third[:2], strict=True))
    merged_boxes, merged_scores = vote(boxes, scores, 0.6)
    assert len(merged_scores) == 1 and merged_scores[0] == np.float32(0.5)
    np.testing.assert_allclose(merged_boxes[0], [0, 0, 10, (5 + 4.5 + 2) / 1.4], rtol=1e-6)


def test_votes_are_inclusive_and_count_the_added_one() -> None:
    given = boxes_of((0, 0, 9, 9, 0.8), (0, 0, 9, 5, 0.4))  # 100 and 60 pixels: IoU 0.6
    boxes, scores = vote(given.boxes, given.scores, 0.6)
    np.testing.assert_allclose(boxes, [[0, 0, 9, (9 * 0.8 + 5 * 0.4) / 1.2]], rtol=1e-6)
    assert scores.tolist() == [np.float32(0.8)]
    assert len(vote(given.boxes, given.scores, 0.601)[1]) == 2


def test_soft_votes_also_give_the_boxes_at_a_lower_score() -> None:
    given = boxes_of((0, 0, 9, 9, 0.8), (0, 0, 9, 5, 0.4), (50, 50, 59, 59, 0.01))
    boxes, scores = vote(given.boxes, given.scores, 0.6, lowest=0.05)
    np.testing.assert_allclose(scores, [0.8, 0.4 * 0.4, 0.01], rtol=1e-6)  # a single box is kept whatever its score
    assert boxes[1:].tolist() == [[0, 0, 9, 5], [50, 50, 59, 59]]
    assert len(vote(given.boxes, given.scores, 0.6, lowest=0.2)[1]) == 2


@pytest.mark.parametrize("form", ["vote", "soft-vote"])
def test_boxes_turned_inside_out_come_to_an_end(form: str) -> None:
    odd = boxes_of((10, 10, 8, 8, 0.9), (10, 10, 8, 8, 0.8), (0, 0, 9, 9, 0.7))
    assert len(merged(odd, replace(NONE, special_nms=form)).scores) == 3


def test_soft_nms_lowers_scores_and_never_drops_the_best() -> None:
    given = boxes_of((0, 0, 9, 9, 0.5), (0, 0, 9, 5, 0.9), (0, 0, 9, 9, 0.6))
    boxes, scores = soft_nms(given.boxes, given.scores, 0.1)
    # 0.9 leads; 0.6 and 0.5 meet it by 0.6; then the 0.6 lowers the 0.5 that equals it.
    by_first, by_same = np.exp(-0.36 / 0.95), np.exp(-1 / 0.95)
    np.testing.assert_allclose(scores, [0.9, 0.6 * by_first, 0.5 * by_first * by_same], rtol=1e-5)
    assert boxes[:, 3].tolist() == [5, 9, 9]
    assert soft_nms(given.boxes, given.scores, 0.95)[1].tolist() == [np.float32(0.9)]


def test_classes_that_the_configuration_names() -> None:
    given = boxes_of(*[(20.0 * n, 0, 20.0 * n + 9, 9, 0.9 - n / 10) for n in range(5)], labels=(0, 1, 2, 3, 4))
    assert merged(given, replace(NONE, num_classes=4)).labels.tolist() == [0, 1, 2]
    assert merged(given, replace(NONE, num_classes=1)).labels.tolist() == []
    chosen = replace(NONE, num_classes=2, select_classes=(5, 2, 99))
    assert merged(given, chosen).labels.tolist() == [1, 4]
    assert lost_classes(80, NONE) == 0 and lost_classes(1203, NONE) == 1123 and lost_classes(6, chosen) == 4
