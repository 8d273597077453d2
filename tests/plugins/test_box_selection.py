"""The box selection kernels against the package's plain form: equal to the bit, whatever the order of the threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from host_kernels import HostKernels
from hypothesis import given, settings
from hypothesis import strategies as st

from glip_export.config import DetectionConfig
from glip_export.model.selection import Candidates, best_after_nms

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def reference(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, threshold: float, d: int) -> list[np.ndarray]:
    config = DetectionConfig(
        nms_threshold=threshold, detections_per_image=d, anchor_strides=(8,), pre_nms_top_n=scores.shape[1]
    )
    found = best_after_nms(
        Candidates(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels)),
        int(labels.max(initial=0)) + 1,
        config,
    )
    return [array.numpy() for array in found]


def candidates(
    rng: np.random.Generator, batch: int, count: int, classes: int, *, empty: float = 0.1, places: int = 0
) -> Arrays:
    """Boxes in crowds of a few pixels' shift; with `places` > 0 the scores take only that many values."""
    centre = rng.uniform(0, 300, (batch, count, 2))
    crowd = centre[:, : max(1, count // 8)]
    pick = rng.integers(0, crowd.shape[1], (batch, count))
    centre = np.take_along_axis(crowd, pick[:, :, None], 1) + rng.normal(0, 6, (batch, count, 2))
    half = rng.uniform(0, 40, (batch, count, 2))
    half[rng.random((batch, count)) < 0.1] = 0  # no area
    boxes = np.concatenate([centre - half, centre + half], -1).astype(np.float32)
    scores = rng.random((batch, count)).astype(np.float32)
    if places:
        scores = np.floor(scores * places).astype(np.float32) / places
    scores[rng.random((batch, count)) < empty] = -1
    return boxes, scores, rng.integers(0, classes, (batch, count)).astype(np.int64)


def check(host: HostKernels, arrays: Arrays, threshold: float, d: int, order: int = 0) -> None:
    expected = reference(*arrays, threshold, d)
    for name, one, other in zip(
        ("boxes", "scores", "labels", "count"), host.nms(*arrays, threshold, d, order), expected, strict=True
    ):
        np.testing.assert_array_equal(one, other, err_msg=name)


@settings(max_examples=250, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    count=st.integers(1, 90),
    classes=st.sampled_from([1, 2, 7, 80]),
    empty=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    places=st.sampled_from([0, 1, 3, 20]),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.6, 1.0]),
    d=st.sampled_from([1, 5, 100]),
)
def test_any_candidates(
    host: HostKernels,
    seed: int,
    batch: int,
    count: int,
    classes: int,
    empty: float,
    places: int,
    threshold: float,
    d: int,
) -> None:
    arrays = candidates(np.random.default_rng(seed), batch, count, classes, empty=empty, places=places)
    check(host, arrays, threshold, d, order=seed % 5)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 511, 513, 1000])
@pytest.mark.parametrize("places", [0, 4])
@pytest.mark.parametrize("d", [100, 700])
def test_around_the_edges_of_the_tiles(host: HostKernels, count: int, places: int, d: int) -> None:
    check(host, candidates(np.random.default_rng(count), 2, count, 5, places=places), 0.5, d, order=2)


@pytest.mark.parametrize(("count", "classes"), [(5000, 80), (5000, 1), (6000, 3)])
def test_full_size(host: HostKernels, count: int, classes: int) -> None:
    check(host, candidates(np.random.default_rng(count + classes), 1, count, classes, places=500), 0.6, 100)


def test_few_survive_of_many(host: HostKernels) -> None:
    """All tiles are gone through, and more are kept than a tile holds."""
    rng = np.random.default_rng(9)
    corner = rng.integers(0, 20, (1, 5000, 2)) * 50.0 + rng.uniform(0, 1, (1, 5000, 2))
    boxes = np.concatenate([corner, corner + 40], -1).astype(np.float32)
    arrays = boxes, rng.random((1, 5000)).astype(np.float32), np.zeros((1, 5000), np.int64)
    assert reference(*arrays, 0.5, 1000)[3] == [400]
    check(host, arrays, 0.5, 1000)


def test_equal_scores_keep_the_smaller_index(host: HostKernels) -> None:
    boxes = np.zeros((1, 700, 4), np.float32)
    boxes[0, :, 0] = boxes[0, :, 2] = np.arange(700) * 10
    found, _, _, count = host.nms(boxes, np.full((1, 700), 0.5, np.float32), np.zeros((1, 700), int), 0.5, 300)
    assert count == [300]
    np.testing.assert_array_equal(found[0], boxes[0, :300])


def test_no_candidate_and_nothing_at_all(host: HostKernels) -> None:
    for count in (0, 1, 300):
        scores = np.full((2, count), -1, np.float32)
        boxes, best, labels, kept = host.nms(
            np.ones((2, count, 4)), scores, np.zeros((2, count), np.int64), 0.5, detections=7
        )
        assert not boxes.any() and not best.any() and (labels == -1).all() and not kept.any()


def test_a_score_of_zero_is_a_candidate_and_nan_is_none(host: HostKernels) -> None:
    scores = np.array([[-0.5, -0.0, 0.0, np.nan, np.inf, 1e-45]], np.float32)
    boxes = np.arange(6, dtype=np.float32).reshape(1, 6, 1) * 100 + np.zeros(4, np.float32)
    found, _, _, count = host.nms(boxes, scores, np.zeros((1, 6), int), 0.5, 6)
    assert count == [4]
    assert found[0, :, 0].tolist() == [400, 500, 100, 200, 0, 0]


def test_widths_count_one_more(host: HostKernels) -> None:
    """10 and 9 pixels wide by the +1 rule: IoU is exactly 0.9, which does not go over 0.9."""
    boxes = np.array([[[0, 0, 9, 9], [0, 0, 8, 9], [50, 50, 50, 50], [50, 50, 50, 50]]], np.float32)
    scores, labels = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32), np.zeros((1, 4), np.int64)
    threshold = float(np.float32(90) / np.float32(100))
    assert host.nms(boxes, scores, labels, threshold, 4)[3] == [3]  # of the two that are one point, one
    assert host.nms(boxes, scores, labels, float(np.nextafter(np.float32(threshold), np.float32(0))), 4)[3] == [2]


def test_infinite_nan_and_inverted_boxes_are_as_in_the_plain_form(host: HostKernels) -> None:
    rng = np.random.default_rng(5)
    boxes, scores, labels = candidates(rng, 2, 200, 2)
    strange = rng.random((2, 200, 4))
    boxes[strange < 0.05] = np.inf
    boxes[(strange > 0.05) & (strange < 0.1)] = np.nan
    boxes[(strange > 0.1) & (strange < 0.15)] = -1e30
    check(host, (np.where(np.isnan(boxes), np.float32(np.nan), boxes), scores, labels), 0.5, 150)


def test_same_bits_in_every_order_of_threads_and_every_grid(host: HostKernels) -> None:
    arrays = candidates(np.random.default_rng(11), 3, 900, 4, places=6)
    first = host.nms(*arrays, 0.5, 60)
    small = {"glip_nms_rank": (1, 1, 1), "glip_nms_select": (1, 1, 1)}
    for order, change in ((1, None), (2, None), (3, None), (0, small)):
        for one, other in zip(host.nms(*arrays, 0.5, 60, order, change), first, strict=True):
            np.testing.assert_array_equal(one, other)
