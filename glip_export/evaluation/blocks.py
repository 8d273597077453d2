"""Detections as arrays, a block after the other: what scorers take, found by a Detector or read from a file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Block(NamedTuple):
    """N detections, in the order in which they were found."""

    item: NDArray[np.int32]  # (N,) place of the picture in the data set's order
    label: NDArray[np.int32]  # (N,) place of the category in the data set's order
    score: NDArray[np.float64]  # (N,)
    box: NDArray[np.float64]  # (N, 4) x, y, width, height in pixels of the annotated size

    def part(self, which: slice | NDArray[np.bool_]) -> Block:
        """Some of them."""
        return Block(self.item[which], self.label[which], self.score[which], self.box[which])
