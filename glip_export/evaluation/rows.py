"""What a detector found, as rows of one size: millions of them take little memory, and go to a file as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glip_export.errors import BackendError
from glip_export.evaluation.entries import ImageId
from glip_export.results.detections import Detections

ROW = np.dtype(
    [
        ("item", "<i4"),  # place of the picture (or sentence) in the data set
        ("label", "<i4"),  # place of the category (or phrase)
        ("score", "<f4"),
        ("box", "<f4", (4,)),  # xyxy, in pixels of the size that the annotations are in
    ]
)
Rows = NDArray[Any]  # (n,) of ROW


class Found(NamedTuple):
    """n detections as evaluators take them, from a detector or from a file, in the order in which they were found."""

    item: NDArray[np.int64]  # (n,)
    label: NDArray[np.int64]  # (n,)
    score: NDArray[np.float64]  # (n,)
    box: NDArray[np.float64]  # (n, 4) x, y, width, height in pixels

    def part(self, which: slice | NDArray[np.bool_]) -> Found:
        """Some of them."""
        return Found(self.item[which], self.label[which], self.score[which], self.box[which])


def rows_of(item: int, found: Detections, backend: str, picture: ImageId) -> Rows:
    """The detections of one picture (or sentence), in their order.

    Raises BackendError for values that are not finite; backend, picture: who gave them, for which.
    """
    if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
        raise BackendError(f"{backend} gave NaN or infinite values on picture {picture}")
    rows = np.empty(len(found), ROW)
    rows["item"], rows["label"], rows["score"], rows["box"] = item, found.labels, found.scores, found.boxes
    return rows


def joined(parts: Iterable[Rows]) -> Rows:
    """Rows one after the other."""
    return np.concatenate([np.empty(0, ROW), *parts])


def by_item(blocks: Iterable[Rows], items: Iterable[int]) -> Iterator[tuple[int, Rows]]:
    """The rows of each of the items, of blocks in which items rise; none for an item that has none.

    items: rising; rows of others are passed over. No more than a block is held, and the rows of one item.
    """
    source = iter(blocks)
    waiting = np.empty(0, ROW)
    for item in items:
        own = [waiting[:0]]
        while True:
            first, end = np.searchsorted(waiting["item"], [item, item + 1])
            own.append(waiting[first:end])
            waiting = waiting[end:]
            if len(waiting) or (more := next(source, None)) is None:
                break
            waiting = more
        yield item, joined(own)


def with_one_added(rows: Rows) -> Found:
    """Widths and heights with 1 added, in float64: how the original writes COCO's results."""
    box = rows["box"].astype(np.float64)
    box[:, 2:] = box[:, 2:] - box[:, :2] + 1
    return _found(rows, box)


def by_difference(rows: Rows) -> Found:
    """Widths and heights as plain differences, in float32: how the original writes LVIS's results."""
    box = rows["box"].copy()
    box[:, 2:] -= box[:, :2]
    return _found(rows, box.astype(np.float64))


def _found(rows: Rows, box: NDArray[np.float64]) -> Found:
    return Found(rows["item"].astype(np.int64), rows["label"].astype(np.int64), rows["score"].astype(np.float64), box)
