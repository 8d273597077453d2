"""What was found for the phrases of a sentence, as the original hands it to its evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glip_export.evaluation.entries import ImageId

BoxesOfPhrase = NDArray[np.float64]  # (n, 5): x1, y1, x2, y2, score; by falling score


class Grounded(NamedTuple):
    """A sentence with the boxes of each of its evaluated phrases, in pixels of the picture's annotated size."""

    image_id: ImageId
    sentence_id: ImageId
    boxes: Sequence[BoxesOfPhrase]
    left_out: bool = False  # by the run, which could not ask for it: it has no boxes and does not count


def boxes_by_phrase(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], labels: NDArray[Any], phrases: int
) -> list[BoxesOfPhrase]:
    """The detections of each phrase: boxes (n, 4) xyxy, scores (n,), labels (n,): the phrases' places."""
    rows = np.column_stack([boxes, scores]).astype(np.float64)
    return [by_score(rows[labels == phrase]) for phrase in range(phrases)]


def by_score(boxes: BoxesOfPhrase) -> BoxesOfPhrase:
    """By falling score; of equal ones the earlier comes first."""
    return boxes[np.argsort(-boxes[:, 4], kind="stable")]


def with_empty_box(boxes: BoxesOfPhrase) -> NDArray[np.float64]:
    """The boxes (n + 1, 4) that count for a phrase: a box without area stands last, so that no list is empty.

    As in the original. It is no box of anything and only fills a place where there are fewer boxes than count.
    """
    return np.vstack([boxes[:, :4], np.zeros((1, 4))])
