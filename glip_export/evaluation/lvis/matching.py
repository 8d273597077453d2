"""Which detections of one class hit: LVIS's matching, all thresholds and ranges of area at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glip_export.evaluation.lvis.best import Rows

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # all, small, medium, large; both ends in
PAIRS_AT_ONCE = 1 << 20


class Truth(NamedTuple):
    """The objects of one class, by picture and within it in the file's order."""

    item: I64  # (G,) rising
    box: F64  # (G, 4) x, y, width, height
    area: F64  # (G,) the file's own, not the box's

    def outside(self) -> Bools:
        """(areas, G) What is not of the range of areas: ignored there."""
        return _outside(self.area)


class Matches(NamedTuple):
    """What became of N detections; those that are neither hit nor ignored are wrong."""

    hit: Bools  # (areas, thresholds, N) matched to an object that counts
    ignored: Bools  # (areas, thresholds, N) matched to one that does not, or excused


def match(found: Rows, truth: Truth, excused: Bools) -> Matches:
    """Matches detections (N,), by picture and within it best first, each to the free object that it covers best.

    excused: (N,) what is no mistake though it matches nothing, as its class is not annotated everywhere in the picture.
    Objects that count come before those that are ignored; of equal IoUs the later object is taken.
    """
    counts = ~truth.outside()  # (areas, G)
    free = np.ones((len(AREAS), len(THRESHOLDS), len(truth.item)), np.bool_)
    hit = np.zeros((len(AREAS), len(THRESHOLDS), len(found)), np.bool_)
    ignored = np.broadcast_to((_outside(_areas(found["box"])) | excused)[:, None], hit.shape).copy()
    every_area, every_threshold = np.arange(len(AREAS))[:, None], np.arange(len(THRESHOLDS))
    for place, objects, ious in _candidates(found, truth):
        # The order in which the objects would be taken: by IoU, of equal ones the later, and first those that count.
        order = np.empty(len(objects), np.int64)
        order[np.argsort(ious, kind="stable")] = np.arange(1, len(objects) + 1)
        of_area = order + len(objects) * counts[:, objects]  # (areas, g)
        may = free[:, :, objects] & (ious >= THRESHOLDS[:, None])  # (areas, thresholds, g)
        wish = np.where(may, of_area[:, None], 0)
        taken = wish.argmax(-1)  # (areas, thresholds)
        matched = may.any(-1)
        free[every_area, every_threshold, objects[taken]] &= ~matched
        counted = counts[every_area, objects[taken]]
        hit[:, :, place] = matched & counted
        ignored[:, :, place] = np.where(matched, ~counted, ignored[:, :, place])
    return Matches(hit, ignored)


def _candidates(found: Rows, truth: Truth) -> Iterator[tuple[int, I64, F64]]:
    """A detection's place, the objects that it may match at the lowest threshold, and the IoUs with them."""
    first = np.searchsorted(truth.item, found["item"], "left")
    number = np.searchsorted(truth.item, found["item"], "right") - first  # of objects in the detection's picture
    with_objects = np.flatnonzero(number)
    ends = np.cumsum(number[with_objects])
    start = 0
    while start < len(with_objects):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, "right")))
        places = with_objects[start:stop]
        detection = np.repeat(places, number[places])  # (pairs,)
        offset = np.repeat(ends[start:stop] - number[places] - before, number[places])
        objects = np.arange(len(detection)) - offset + first[detection]
        ious = iou(found["box"][detection], truth.box[objects])
        near = ious >= THRESHOLDS[0]
        detection, objects, ious = detection[near], objects[near], ious[near]
        changes = np.flatnonzero(np.diff(detection)) + 1
        for begin, end in zip([0, *changes], [*changes, len(detection)], strict=True):
            if begin < end:
                yield int(detection[begin]), objects[begin:end], ious[begin:end]
        start = stop


def iou(one: F64, other: F64) -> F64:
    """Of boxes (N, 4) x, y, width, height in pairs, in the order of pycocotools' operations, without a +1."""
    width = np.minimum(one[:, 0] + one[:, 2], other[:, 0] + other[:, 2]) - np.maximum(one[:, 0], other[:, 0])
    height = np.minimum(one[:, 1] + one[:, 3], other[:, 1] + other[:, 3]) - np.maximum(one[:, 1], other[:, 1])
    common = width * height
    meets = (width > 0) & (height > 0)
    both = _areas(one) + _areas(other) - common
    return np.divide(common, both, out=np.zeros_like(common), where=meets)


def _areas(boxes: F64) -> F64:
    areas: F64 = boxes[:, 2] * boxes[:, 3]
    return areas


def _outside(area: F64) -> Bools:
    """(areas, N)"""
    return np.array([(area < low) | (area > high) for low, high in AREAS])
