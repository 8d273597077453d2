"""Whether an answer is the Detector's own."""

from __future__ import annotations

from collections import Counter

import numpy as np

from glip_export import Detections


def assert_same(found: Detections, expected: Detections) -> None:
    """Boxes within 0.02 px, scores within 1e-4, names and number alike; near-ties may change places."""
    assert found.classes == expected.classes and found.image_size == expected.image_size
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4, rtol=0)
    assert Counter(found.labels.tolist()) == Counter(expected.labels.tolist())
    for label, score, box in zip(found.labels, found.scores, found.boxes, strict=True):
        near = (expected.labels == label) & (np.abs(expected.scores - score) <= 1e-4)
        assert np.abs(expected.boxes[near] - box).max(axis=1).min() <= 0.02
