"""Detections that are the same but for the order of nearly equal scores, which another order of sums turns."""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_same_detections(found: Any, expected: Any, *, pixels: float, score: float) -> None:
    """Of one picture: each of `expected` has one of `found` of its own, of its class, box and score.

    Both have `boxes` (n, 4), `scores` (n,) and `labels` (n,); pixels, score: the most that each may differ by.
    """
    assert len(found.scores) == len(expected.scores) > 0
    left = list(range(len(found.scores)))
    for place, (box, value, label) in enumerate(zip(expected.boxes, expected.scores, expected.labels, strict=True)):
        far = {i: float(np.abs(found.boxes[i] - box).max()) for i in left if found.labels[i] == label}
        near = [i for i in far if far[i] <= pixels and abs(float(found.scores[i] - value)) <= score]
        assert near, f"nothing is detection {place}: {box}, {value:.6f}, class {label}"
        left.remove(min(near, key=lambda i: far[i]))
