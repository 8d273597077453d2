"""A detector's answers held to those that the original stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from compact_oracle import OracleCase

from glip_export.parity.assignment import assign
from glip_export.results.detections import Detections

BOX, SCORE = 0.02, 1e-4  # pixels


def check_detections(case: OracleCase, found: Sequence[Detections]) -> None:
    """Same labels, boxes and scores as the original's, in any order."""
    for index, ours in enumerate(found):
        theirs = {part: case.stored[f"result{index}_{part}"] for part in ("orig_boxes", "scores", "labels")}
        assert len(ours) == len(theirs["scores"])
        far = np.abs(ours.boxes[:, None] - theirs["orig_boxes"]).max(2)
        far = far + 1e3 * np.abs(ours.scores[:, None] - theirs["scores"])
        rows, columns = assign(far.astype(np.float64), ours.labels[:, None] + 1 == theirs["labels"])
        assert len(rows) == len(ours)
        np.testing.assert_allclose(ours.boxes[rows], theirs["orig_boxes"][columns], atol=BOX)
        np.testing.assert_allclose(ours.scores[rows], theirs["scores"][columns], atol=SCORE)
