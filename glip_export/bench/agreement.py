"""Whether a backend found what the reference found in the same run: no one is fast by being wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glip_export.parity.metrics import Tolerance
from glip_export.parity.pairing import Detections, pair
from glip_export.parity.recall import CORNER_PX, SCORE, found_again, together

LOW_TOLERANCE = Tolerance(box_px=CORNER_PX, score=SCORE)  # what bf16 and fp16 may differ by and still be paired


@dataclass(frozen=True)
class Agreement:
    """One backend's detections against the reference's, all pictures and captions of a run together."""

    paired: int
    real: int  # differences that rounding does not explain (see parity.pairing)
    max_box_diff_px: float  # pixels of the resized picture, among the pairs
    max_score_diff: float
    clear: int  # the reference's detections that stand clear above the last one kept (see parity.recall)
    found: int  # of those, the ones found again
    within: bool

    @property
    def compared(self) -> bool:
        """Whether there was anything to compare: else `within` says nothing."""
        return self.paired + self.real + self.clear > 0 or not self.within


def agree(
    reference: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]], precision: str, nms_threshold: float
) -> Agreement:
    """Compare the fusion head's calls of one run, each {"boxes" (B, D, 4), "scores" (B, D), "labels" (B, D)}.

    fp32 must keep the end-to-end tolerance of parity; bf16 and fp16 must find the clear ones again, as parity.recall
    says, or where none is clear, must have no real difference. Against a reference that is not finite itself nothing is
    within tolerance.
    """
    exact = precision == "fp32"
    tolerance = Tolerance() if exact else LOW_TOLERANCE
    pictures = list(zip(_pictures(reference), _pictures(candidate), strict=True))
    diffs = [pair(want, have, tolerance, nms_threshold) for want, have in pictures]
    try:
        recall = together(found_again(want, have) for want, have in pictures)
    except ValueError:  # minutes of measuring are not to be lost over it
        recall = None
    real = sum(len(diff.real) for diff in diffs)
    if recall is None:
        within = False
    elif exact:
        within = all(diff.within(tolerance) for diff in diffs)
    else:
        within = recall.within() if recall.counted else not real
    return Agreement(
        paired=sum(diff.paired for diff in diffs),
        real=real,
        max_box_diff_px=max((diff.box_px for diff in diffs), default=0.0),
        max_score_diff=max((diff.score for diff in diffs), default=0.0),
        clear=recall.counted if recall else 0,
        found=recall.found if recall else 0,
        within=within,
    )


def _pictures(calls: Sequence[Mapping[str, Any]]) -> list[Detections]:
    return [
        Detections(np.array(boxes), np.array(scores), np.array(labels))
        for call in calls
        for boxes, scores, labels in zip(call["boxes"], call["scores"], call["labels"], strict=True)
    ]
