"""NMS on the host against the model's own, bit for bit."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from candidates import EDGES, edge_candidates, random_candidates, selected

from glip_export.config import DetectionConfig
from glip_export.model.selection import Candidates, best
from glip_export.runtime.host_nms import finish, finished


def check(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, threshold: float, detections: int) -> None:
    expected = selected(boxes, scores, labels, threshold, detections)
    given = finish(boxes, scores, labels, threshold, detections)
    for theirs, ours in zip(expected, given, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("tens", range(40))
def test_equals_the_model(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        check(*random_candidates(seed))


@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str) -> None:
    check(*edge_candidates(name))


def test_no_candidates_in_the_array() -> None:
    boxes, scores, labels, count = finish(
        np.zeros((2, 0, 4), np.float32), np.zeros((2, 0), np.float32), np.zeros((2, 0), np.int32), 0.6, 3
    )
    assert not boxes.any() and not scores.any() and (labels == -1).all() and count.tolist() == [0, 0]
    assert boxes.shape == (2, 3, 4)


def test_the_inputs_are_left_as_they_are() -> None:
    given = random_candidates(5)
    copies = [array.copy() for array in given[:3]]
    finish(*given)
    for array, copy in zip(given, copies, strict=False):
        np.testing.assert_array_equal(array, copy)


def test_a_full_picture_is_quick() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1000, (1, 5000, 2)).astype(np.float32)
    boxes = np.concatenate([corner, corner + 40], -1)
    scores, labels = rng.random((1, 5000), np.float32), rng.integers(0, 80, (1, 5000), np.int32)
    started = time.process_time()
    _, _, _, count = finish(boxes, scores, labels, 0.6, 100)
    assert count.tolist() == [100]
    assert time.process_time() - started < 0.5  # some milliseconds; walking every pair takes seconds


@pytest.mark.parametrize("seed", range(6))
def test_all_candidates_ranked_as_the_model_ranks_them(seed: int) -> None:
    boxes, scores, labels, _, _ = random_candidates(seed)
    config = DetectionConfig(several_scales=True)
    ours = finished((boxes, scores, labels), config)
    given = Candidates(*(torch.from_numpy(part) for part in (boxes, scores, labels.astype(np.int64))))
    theirs = best(given, given.scores, scores.shape[1])
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other.numpy())
        assert one.dtype == other.numpy().dtype
