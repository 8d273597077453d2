"""The best detections of each group, out of any number that come block by block, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from glip_export.evaluation.rows import Found

ROW = np.dtype([("item", "<i4"), ("label", "<i4"), ("score", "<f8"), ("box", "<f8", 4)])
Rows = NDArray[np.void]  # of ROW
GATHERED = 500_000  # rows that are split among the groups at once: a small block has a row or two of each group


class Best:
    """The `most` best of each group by score; of equal ones those that came first, as in the original's merging.

    It holds 1.5 times `most` rows of 48 bytes a group at most: LVIS's 1 203 classes, 10 000 each, take 0.9 GB.
    """

    def __init__(self, by: str, groups: int, most: int) -> None:
        """by: "item" or "label", what tells the groups apart: 0..groups - 1."""
        self._by, self._groups, self._most = by, groups, most
        self._room = max(most + most // 2, most + 1)
        self._kept = [np.empty(0, ROW) for _ in range(groups)]
        self._counts = np.zeros(groups, np.int64)
        self._floors = np.full(
            groups, -np.inf
        )  # of a full group: what scores no more than this cannot be among the best
        self._waiting: list[Rows] = []
        self._waits = 0

    def add(self, block: Found) -> None:
        """Detections that come after all that were added before."""
        keep = block.score > self._floors[getattr(block, self._by)]
        rows = np.empty(int(keep.sum()), ROW)
        for name in Found._fields:
            rows[name] = getattr(block, name)[keep]
        self._waiting.append(rows)
        self._waits += len(rows)
        if self._waits >= GATHERED:
            self._split()

    def groups(self) -> Iterator[Rows]:
        """Each group's best, best first; nothing can be added afterwards."""
        self._split()
        for group in range(self._groups):
            rows = _best(self._kept[group][: self._counts[group]], self._most)
            self._kept[group] = np.empty(0, ROW)
            yield rows

    def _split(self) -> None:
        rows = np.concatenate(self._waiting) if self._waiting else np.empty(0, ROW)
        self._waiting, self._waits = [], 0
        key = rows[self._by]
        rows = rows[np.argsort(key.astype(np.int16) if self._groups < 1 << 15 else key, kind="stable")]
        ends = np.cumsum(np.bincount(key, minlength=self._groups))
        for group in np.flatnonzero(np.diff(ends, prepend=0)):
            self._append(int(group), rows[ends[group - 1] if group else 0 : ends[group]])

    def _append(self, group: int, rows: Rows) -> None:
        held = int(self._counts[group])
        if held + len(rows) > self._room:
            rows = _best(np.concatenate([self._kept[group][:held], rows]), self._most)
            held = 0
            self._floors[group] = rows["score"][-1]
        total = held + len(rows)
        if total > len(self._kept[group]):
            larger = np.empty(min(self._room, max(total, 2 * len(self._kept[group]))), ROW)
            larger[:held] = self._kept[group][:held]
            self._kept[group] = larger
        self._kept[group][held:total] = rows
        self._counts[group] = total


def _best(rows: Rows, most: int) -> Rows:
    """The best so many of rows in the order in which they came, best first: a stable sort."""
    return rows[np.argsort(-rows["score"], kind="stable")[:most]]
