from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glip_export.config import DetectionConfig
from glip_export.parity.metrics import Tolerance
from glip_export.parity.pairing import Detections, pair, pair_found

FULL = 12


def test_the_same_detections_pair() -> None:
    diff = pair(spread(), spread())
    assert (diff.reference, diff.candidate, diff.paired) == (FULL, FULL, FULL)
    assert (diff.box_px, diff.score, diff.within_noise, diff.real) == (0, 0, (), ())
    assert diff.within(Tolerance(box_px=0.01, score=1e-6))


def test_differences_of_pairs_are_the_largest_of_a_corner_and_a_score() -> None:
    candidate = spread()
    candidate.boxes[3, 2] += 0.03
    candidate.scores[5] -= 2e-4
    diff = pair(spread(), candidate)
    assert diff.box_px == pytest.approx(0.03, abs=1e-4)
    assert diff.score == pytest.approx(2e-4, rel=1e-3)
    assert diff.within(Tolerance())
    assert not diff.within(Tolerance(box_px=0.02))
    assert not diff.within(Tolerance(score=1e-4))


def test_another_label_is_a_real_difference_on_both_sides() -> None:
    candidate = spread()
    candidate.labels[4] = 7
    diff = pair(spread(), candidate)
    assert [(item.side, item.label) for item in diff.real] == [("reference", 0), ("candidate", 7)]
    assert not diff.within(Tolerance())


def test_a_box_that_moved_is_told_by_how_far() -> None:
    candidate = spread()
    candidate.boxes[4] += 1.0  # a coordinate off by one
    diff = pair(spread(), candidate)
    assert (diff.paired, diff.box_px, diff.real) == (FULL, 1.0, ())
    assert not diff.within(Tolerance())


def test_all_boxes_moved_a_little_too_far_is_no_swap_in_nms() -> None:
    candidate = spread()
    candidate.boxes[:] += 3.0  # they still overlap their own places by far more than 0.6, at equal scores
    diff = pair(spread(), candidate)
    assert not diff.within(Tolerance())


def test_the_last_of_a_full_list_may_fall_off_the_end() -> None:
    reference, candidate = spread(), spread()
    candidate.boxes[-1] += 3000
    candidate.scores[-1] -= 5e-7
    diff = pair(reference, candidate)
    assert diff.paired == FULL - 1
    assert [(item.side, item.reason) for item in diff.within_noise] == [
        ("reference", "cut-off"),
        ("candidate", "cut-off"),
    ]
    assert diff.within(Tolerance())


def test_what_an_extra_detection_pushed_off_the_end_is_not_held_against_it() -> None:
    reference, candidate = spread(), without(spread(extra=1), 3)  # the reference's third, or the next in line
    diff = pair(reference, candidate)
    assert [(item.side, round(item.score, 2)) for item in diff.real] == [("reference", 0.87)]
    assert [item.side for item in diff.within_noise] == ["candidate"]


def test_a_detection_dropped_in_the_middle_is_real() -> None:
    diff = pair(spread(), without(spread(), 5))
    assert [(item.side, item.reason) for item in diff.real] == [("reference", "")]
    assert diff.real[0].box == tuple(spread().boxes[5].tolist())
    assert (diff.unpaired_reference, diff.unpaired_candidate) == (1, 0)
    assert not diff.within(Tolerance())


def test_a_list_that_is_not_full_drops_nothing() -> None:
    reference = padded(spread(), 3)
    candidate = spread()
    candidate.labels[-1] = -1
    diff = pair(reference, padded(candidate, 3))
    assert [item.side for item in diff.real] == ["reference"]


def test_a_near_tie_in_nms_may_go_either_way() -> None:
    reference, candidate = spread(), spread()
    candidate.boxes[5] += 6  # IoU with its place 0.79
    candidate.scores[5] += 5e-7
    diff = pair(reference, candidate)
    assert [item.reason for item in diff.within_noise] == ["near-tie", "near-tie"]
    assert diff.within(Tolerance())


def test_a_side_clipped_elsewhere_is_no_near_tie() -> None:
    reference, candidate = spread(), spread()
    candidate.boxes[4:6, 2] += 12  # IoU with their own 0.8, at the same score, and three sides in common
    diff = pair(reference, candidate)
    assert (diff.paired, diff.box_px, diff.within_noise) == (FULL, 12, ())
    assert not diff.within(Tolerance())


def test_many_near_ties_are_no_coincidence() -> None:
    reference, candidate = spread(), spread()
    candidate.boxes[:2] += 6
    diff = pair(reference, candidate)
    assert (len(diff.within_noise), diff.real) == (4, ())
    assert not diff.within(Tolerance())
    assert diff.within(Tolerance(excused_share=0.2))


def test_the_same_at_another_score_is_real() -> None:
    reference, candidate = spread(), spread()
    candidate.boxes[5] += 6
    candidate.scores[5] += 2e-3
    assert len(pair(reference, candidate).real) == 2


def test_what_follows_from_a_near_tie_is_within_noise() -> None:
    reference, candidate = spread(), spread(extra=1)
    candidate.boxes[5] += 6
    # Only the reference's box 5 suppresses this one: 13 px to its left, 19 px from the candidate's.
    candidate.boxes[-1] = reference.boxes[5] - [11, 0, 11, 0]
    candidate.scores[-1] = 0.801
    candidate = by_score(candidate)
    diff = pair(padded(reference, 1), candidate)
    assert sorted(item.reason for item in diff.within_noise) == ["follows", "near-tie", "near-tie"]
    assert diff.real == ()


def test_an_overlap_at_the_threshold_may_go_either_way() -> None:
    reference, candidate = spread(extra=1), spread(extra=1)
    for each in (reference, candidate):
        each.boxes[-1] = each.boxes[5] + [0, 0, 0, 40.67]  # IoU (+1) 61 / 101.67 = 0.6
        each.scores[-1] = 0.801
    candidate.labels[-1] = -1
    diff = pair(padded(reference, 1), padded(candidate, 1))
    assert [(item.side, item.reason) for item in diff.within_noise] == [("reference", "overlap")]
    assert diff.within(Tolerance())


def test_boxes_without_area_at_the_border_pair_by_score() -> None:
    boxes = np.zeros((5, 4), np.float32)
    boxes[:] = [319, 0, 319, 0]
    boxes[3:, 3] = [100, 200]  # a line is no area either
    scores = np.array([0.5, 0.4996, 0.4992, 0.45, 0.44], np.float32)
    labels = np.zeros(5, np.int64)
    # 0.4996 + 5e-4 is nearer to 0.5 than to its own, but then 0.4992 + 5e-4 and 0.5 + 5e-4 would be further off.
    diff = pair(Detections(boxes, scores, labels), Detections(boxes[::-1], scores[::-1] + np.float32(5e-4), labels))
    assert diff.paired == 5
    assert diff.score == pytest.approx(5e-4, rel=1e-3)
    assert diff.within(Tolerance())


def test_nan_is_real_and_spoils_nothing_else() -> None:
    candidate = spread()
    candidate.boxes[2, 1], candidate.scores[7] = np.nan, np.inf
    diff = pair(spread(), candidate)
    assert diff.paired == FULL - 2
    assert sorted(item.side for item in diff.real) == ["candidate", "candidate", "reference", "reference"]
    assert (diff.box_px, diff.score) == (0, 0)


def test_nothing_in_either_is_equal() -> None:
    nothing = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))
    assert pair(nothing, nothing).within(Tolerance())
    assert not pair(spread(), nothing).within(Tolerance())
    assert not pair(nothing, spread()).within(Tolerance())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([0.0, 1e-4, 1.0]))
def test_order_means_nothing(seed: int, count: int, score_spread: float) -> None:
    generator = np.random.default_rng(seed)
    corners = np.sort(np.clip(generator.normal(150, 120, (count, 2, 2)), 0, 299), axis=1)  # many at the border
    found = Detections(
        corners.reshape(count, 4).astype(np.float32),
        (0.3 + score_spread * generator.random(count) / 2).astype(np.float32),
        generator.integers(-1, 3, count),
    )
    order = generator.permutation(count)
    diff = pair(found, Detections(*(part[order] for part in found)))
    assert diff.unpaired_reference == diff.unpaired_candidate == 0
    assert (diff.box_px, diff.score) == (0, 0)


@pytest.mark.parametrize(("box_noise", "score_noise"), [(1e-4, 1e-6), (1e-3, 1e-5), (5e-3, 1e-4)])
@pytest.mark.parametrize("slots", [30, 100])
def test_two_noisy_runs_of_nms_never_really_differ(
    oracle_tiny: Path, box_noise: float, score_noise: float, slots: int
) -> None:
    """The original's own candidates, before NMS, rounded in two ways."""
    io, generator = np.load(oracle_tiny / "io.npz"), np.random.default_rng(slots)
    for picture in (0, 1) * 3:
        boxes, scores, labels = (io[f"prenms{picture}_{name}"] for name in ("boxes", "scores", "labels"))
        one, other = (
            nms(
                boxes + generator.normal(0, box_noise, boxes.shape),
                scores * (1 + generator.normal(0, score_noise, scores.shape)),
                labels,
                slots,
            )
            for _ in range(2)
        )
        diff = pair(one, other)
        assert diff.real == ()
        assert diff.within(Tolerance())


def test_without_nms_a_score_at_a_cut_may_go_either_way() -> None:
    """Lists of all candidates: the class score of 0.05 that is the least makes a final score of 0.2236 at most."""
    config = DetectionConfig(several_scales=True)
    reference = padded(spread(), 1)
    reference.scores[-2] = 0.2
    diff = pair_found(reference, padded(without(reference, FULL - 1), 1), Tolerance(), config)
    assert [item.reason for item in diff.within_noise] == ["cut"] and diff.within(Tolerance())
    reference.scores[-2] = 0.3
    diff = pair_found(reference, padded(without(reference, FULL - 1), 1), Tolerance(), config)
    assert len(diff.real) == 1 and not diff.within(Tolerance())
    few = replace(config, pre_nms_top_n=FULL - 1)  # a level may be full: the last of its candidates has any score
    diff = pair_found(reference, padded(without(reference, FULL - 1), 1), Tolerance(), few)
    assert [item.reason for item in diff.within_noise] == ["cut"] and diff.within(Tolerance())
    diff = pair_found(
        reference, padded(without(without(reference, 7), 3), 2), Tolerance(), replace(few, pre_nms_top_n=1)
    )
    assert diff.real == () and not diff.within(Tolerance())  # two are no coincidence


def test_without_nms_overlaps_excuse_nothing() -> None:
    config = DetectionConfig(several_scales=True)
    reference, candidate = (padded(spread(), 1) for _ in range(2))
    candidate.boxes[5] += 6
    candidate.scores[5] += 5e-7
    assert [item.reason for item in pair(reference, candidate).within_noise] == ["near-tie", "near-tie"]
    assert len(pair_found(reference, candidate, Tolerance(), config).real) == 2


def spread(extra: int = 0) -> Detections:
    """A full list of one class: boxes 60 px wide, 100 px apart, scores from 0.9 down by 0.01."""
    x = 100.0 * np.arange(FULL + extra)
    boxes = np.stack([x, x * 0, x + 60, x * 0 + 60], axis=1).astype(np.float32)
    return Detections(boxes, (0.9 - 0.01 * np.arange(len(x))).astype(np.float32), np.zeros(len(x), np.int64))


def without(found: Detections, index: int) -> Detections:
    return Detections(*(np.delete(part, index, axis=0) for part in found))


def padded(found: Detections, empty: int) -> Detections:
    boxes, scores, labels = found
    return Detections(
        np.pad(boxes, ((0, empty), (0, 0))), np.pad(scores, (0, empty)), np.pad(labels, (0, empty), constant_values=-1)
    )


def by_score(found: Detections) -> Detections:
    order = np.argsort(-found.scores, kind="stable")
    return Detections(*(part[order] for part in found))


def nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, slots: int) -> Detections:
    """Class-wise NMS at 0.6 (+1 on widths and heights), the first `slots` in fp32."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        rivals = boxes[[k for k in kept if labels[k] == labels[i]]].reshape(-1, 4)
        shared = np.minimum(rivals[:, 2:], boxes[i, 2:]) - np.maximum(rivals[:, :2], boxes[i, :2]) + 1
        both = np.maximum(shared, 0).prod(axis=1)
        areas = (rivals[:, 2:] - rivals[:, :2] + 1).prod(axis=1) + (boxes[i, 2:] - boxes[i, :2] + 1).prod()
        if len(kept) < slots and not (both > 0.6 * (areas - both)).any():
            kept.append(int(i))
    return Detections(boxes[kept].astype(np.float32), scores[kept].astype(np.float32), labels[kept])
