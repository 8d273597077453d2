"""The detections of one picture against the reference's: which are the same, which differ by noise, which really.

Order means nothing (ties of score fall either way), and IoU alone pairs badly: boxes clipped at the border may have no
area. Detections are paired by class, corner distance and score, as many as possible at the least cost.

What is left unpaired may be rounding: a threshold that two programs meet from either side. Told apart from a real
difference by what the two lists show:

- `cut-off`: the other list is full, and this score is not above its last by more than the noise: it fell off the end.
- `near-tie`: a box of the same class in the other list, also unpaired, overlaps it above the NMS threshold at a score
  equal within the noise: each program kept another of the two.
- `overlap`: a box kept by both, of no lower score, overlaps it by the NMS threshold within the noise.
- `cut`: lists of all candidates, without NMS (several scales): its class score may stand at ATSS.INFERENCE_TH, for its
  final score is no higher than that allows; or it may be the last of a level's PRE_NMS_TOP_N candidates, if there are
  so many.
- `follows`: a box kept by the other list only, excused itself and of a higher score, suppresses it there.

Not told apart after NMS, for the outputs do not show it, and so counted as real: a class score within the noise of
ATSS.INFERENCE_TH (the final score carries the centerness too), and the last of a level's PRE_NMS_TOP_N candidates.
A box in the place of another of the same score is never a near-tie, but the same detection moved: less than MOVED_PX
away, or with a side in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glip_export.config import DetectionConfig
from glip_export.parity.assignment import Indices, assign
from glip_export.parity.metrics import Tolerance

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

NOISE = 4  # times the largest difference seen among pairs, or the tolerance, is what rounding may do to the others
MOVED_PX = 2.0  # pixels: NMS survivors of one class lie further apart, a box that moved with its detection seldom
MOVED_SCORE = 0.1
MEASURED_PAIRS = 10  # fewer pairs than this say too little about the noise: the tolerance stands in
SCORE_ROUNDING = 1e-6  # the noise of a score where all pairs happen to be bit-equal
BOX_ROUNDING = 1e-3  # pixels; fp32 holds coordinates of 1000 px to 6e-5


class Detections(NamedTuple):
    """One picture's detections; slots whose label is -1 are empty. A list without empty slots is full."""

    boxes: NDArray[Any]  # (D, 4) xyxy in resized pixels
    scores: NDArray[Any]  # (D,)
    labels: NDArray[Any]  # (D,)


@dataclass(frozen=True)
class Unpaired:
    """A detection that only one of the two lists has."""

    side: str  # "reference" or "candidate": the list that has it
    label: int
    score: float
    box: tuple[float, ...]  # xyxy in resized pixels
    reason: str  # cut-off, near-tie, overlap, cut, follows; "" for a real difference


@dataclass(frozen=True)
class DetectionDiff:
    """The outcome for one picture; box_px and score are the largest differences among the pairs."""

    reference: int
    candidate: int
    paired: int
    box_px: float  # pixels of the resized picture
    score: float
    within_noise: tuple[Unpaired, ...]
    real: tuple[Unpaired, ...]

    @property
    def unpaired_reference(self) -> int:
        return self.reference - self.paired

    @property
    def unpaired_candidate(self) -> int:
        return self.candidate - self.paired

    def within(self, tolerance: Tolerance) -> bool:
        """No real difference, the pairs near enough, and no more put down to noise than noise does.

        Where scores crowd, many may fall off the end, yet most must pair. The other reasons are rare coincidences.
        """
        most = max(self.reference, self.candidate)
        suppressed = [item.side for item in self.within_noise if item.reason != "cut-off"]
        coincidences = max(suppressed.count("reference"), suppressed.count("candidate"))
        near = self.box_px <= tolerance.box_px and self.score <= tolerance.score
        plausible = coincidences <= max(1.0, tolerance.excused_share * most) and 2 * self.paired >= most
        return near and plausible and not self.real


def pair_found(
    reference: Detections, candidate: Detections, tolerance: Tolerance, config: DetectionConfig
) -> DetectionDiff:
    """`pair` of what two fusion heads of one bundle gave."""
    if not config.several_scales:
        return pair(reference, candidate, tolerance, config.nms_threshold)
    # The final score is the root of the class score times the centerness, which is 1 at most.
    fewest = min(int((found.labels >= 0).sum()) for found in (reference, candidate))
    cut = math.sqrt(max(config.score_threshold, 0)) if fewest < config.pre_nms_top_n else math.inf
    return pair(reference, candidate, tolerance, math.inf, cut)


def pair(
    reference: Detections,
    candidate: Detections,
    tolerance: Tolerance | None = None,
    nms_threshold: float = 0.6,
    cut: float = -math.inf,
) -> DetectionDiff:
    """Pair two lists of detections of one picture.

    tolerance: how far two detections may be apart and still be taken for one (NOISE times it).
    nms_threshold: MODEL.ATSS.NMS_TH, an IoU with +1 on widths and heights. cut: see the module's `cut`, up to which
    score.
    Detections with a box or score that is not finite are never paired and always real differences.
    """
    tolerance = tolerance or Tolerance()
    a, b = _Side.of("reference", reference), _Side.of("candidate", candidate)
    same_class = (a.labels[:, None] == b.labels[None, :]) & a.finite[:, None] & b.finite[None, :]  # (N, M)
    box_distance = _pairwise_max(a.boxes, b.boxes)  # (N, M) pixels
    score_distance = np.abs(a.scores[:, None] - b.scores[None, :])  # (N, M)

    # Squared, so that of detections in a row none jumps its neighbour: as sums of distances both would cost the same.
    cost = (box_distance / tolerance.box_px) ** 2 + (score_distance / tolerance.score) ** 2

    def match(allowed: Mask) -> tuple[Indices, Indices]:
        found = assign(cost, allowed & same_class & _open(a, b))
        a.paired[found[0]], b.paired[found[1]] = True, True
        return found

    near = (box_distance <= NOISE * tolerance.box_px) & (score_distance <= NOISE * tolerance.score)
    rows, columns = match(near)
    box_noise, score_noise = _noise(box_distance[rows, columns], score_distance[rows, columns], tolerance)
    # What plainly is one detection in two places is told by how far it moved: before noise can excuse it if the score
    # is the same, else after.
    same_place = (box_distance <= max(MOVED_PX, NOISE * tolerance.box_px)) | _same_side_moved(a, b, box_noise)
    moved = match(same_place & (score_distance <= score_noise))
    _excuse(a, b, nms_threshold, cut, box_noise, score_noise)
    changed = match(same_place & (score_distance <= MOVED_SCORE))

    rows, columns = (np.concatenate(parts) for parts in zip((rows, columns), moved, changed, strict=True))
    unpaired = a.unpaired() + b.unpaired()
    return DetectionDiff(
        reference=len(a.scores),
        candidate=len(b.scores),
        paired=len(rows),
        box_px=float(box_distance[rows, columns].max(initial=0.0)),
        score=float(score_distance[rows, columns].max(initial=0.0)),
        within_noise=tuple(item for item in unpaired if item.reason),
        real=tuple(item for item in unpaired if not item.reason),
    )


@dataclass
class _Side:
    """One list without its empty slots, and what has been found out about each detection."""

    name: str
    boxes: F64  # (N, 4)
    scores: F64  # (N,)
    labels: NDArray[np.int64]  # (N,)
    full: bool
    finite: Mask  # (N,)
    paired: Mask  # (N,)
    reasons: list[str]

    @classmethod
    def of(cls, name: str, detections: Detections) -> _Side:
        boxes = np.asarray(detections.boxes, np.float64).reshape(-1, 4)
        scores = np.asarray(detections.scores, np.float64).reshape(-1)
        labels = np.asarray(detections.labels, np.int64).reshape(-1)
        used = labels >= 0
        boxes, scores, labels = boxes[used], scores[used], labels[used]
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
        # Kept out of the arithmetic: NaN would spoil every comparison it meets.
        boxes, scores = np.where(finite[:, None], boxes, 0.0), np.where(finite, scores, 0.0)
        full = bool(used.all()) and len(used) > 0
        return cls(name, boxes, scores, labels, full, finite, np.zeros(len(labels), bool), [""] * len(labels))

    @property
    def excused(self) -> Mask:
        return np.array([bool(reason) for reason in self.reasons], bool)

    def unpaired(self) -> list[Unpaired]:
        return [
            Unpaired(
                self.name,
                int(self.labels[i]),
                float(self.scores[i]) if self.finite[i] else float("nan"),
                tuple(self.boxes[i].tolist()) if self.finite[i] else (float("nan"),) * 4,
                self.reasons[i],
            )
            for i in np.flatnonzero(~self.paired)
        ]


def _noise(box_distances: F64, score_distances: F64, tolerance: Tolerance) -> tuple[float, float]:
    """What rounding does to a box (pixels) and a score here: measured on the pairs, never above the tolerance."""
    if len(box_distances) < MEASURED_PAIRS:
        return tolerance.box_px, tolerance.score
    box = max(BOX_ROUNDING, NOISE * float(box_distances.max()))
    score = max(SCORE_ROUNDING, NOISE * float(score_distances.max()))
    return min(tolerance.box_px, box), min(tolerance.score, score)


def _excuse(a: _Side, b: _Side, nms_threshold: float, cut: float, box_noise: float, score_noise: float) -> None:
    """Give every unpaired detection that noise explains its reason (the module's docstring lists them)."""
    overlap, overlap_noise = _overlap(a.boxes, b.boxes, box_noise)  # (N, M) each
    suppresses = (a.labels[:, None] == b.labels[None, :]) & (overlap > nms_threshold - overlap_noise)
    borderline = suppresses & (overlap < nms_threshold + overlap_noise)
    lead = b.scores[None, :] - a.scores[:, None]  # (N, M): how far b's score is above a's
    tied = suppresses & (np.abs(lead) <= score_noise)
    for side, other, ahead, tie, edge in ((a, b, lead, tied, borderline), (b, a, -lead.T, tied.T, borderline.T)):
        fell_off = other.full & (side.scores <= other.scores.min(initial=np.inf) + score_noise)
        near_tie = (tie & ~other.paired[None, :]).any(axis=1)
        at_threshold = (edge & other.paired[None, :] & (ahead >= -score_noise)).any(axis=1)
        at_cut = side.scores <= cut + score_noise
        found = (("cut-off", fell_off), ("near-tie", near_tie), ("overlap", at_threshold), ("cut", at_cut))
        for reason, holds in found:
            for i in np.flatnonzero(holds & ~side.paired & side.finite & ~side.excused):
                side.reasons[i] = reason
    changed = True
    while changed:  # one excused detection may suppress another, which then no longer suppresses a third
        changed = False
        for side, other, above in ((a, b, suppresses & (lead > 0)), (b, a, (suppresses & (lead < 0)).T)):
            follows = (above & (~other.paired & other.excused)[None, :]).any(axis=1)
            for i in np.flatnonzero(follows & ~side.paired & side.finite & ~side.excused):
                side.reasons[i], changed = "follows", True


def _open(a: _Side, b: _Side) -> Mask:
    """(N, M): both neither paired nor excused."""
    return ~(a.paired | a.excused)[:, None] & ~(b.paired | b.excused)[None, :]


def _same_side_moved(a: _Side, b: _Side, box_noise: float) -> Mask:
    """(N, M): overlapping by half, and with a side in common inside the picture.

    Two detections share a side at the border, where both were clipped, and nowhere else.
    """
    inside_a, inside_b = (
        (side.boxes > box_noise) & (side.boxes < np.tile(_far_corner(side), 2) - box_noise) for side in (a, b)
    )
    common = np.abs(a.boxes[:, None] - b.boxes[None, :]) <= box_noise  # (N, M, 4)
    overlap, _ = _overlap(a.boxes, b.boxes, box_noise)
    return (overlap > 0.5) & (common & inside_a[:, None] & inside_b[None, :]).any(axis=2)


def _far_corner(side: _Side) -> F64:
    """(2,): the right and lowest of all boxes, which are the picture's border where it matters."""
    return side.boxes[:, 2:].max(axis=0, initial=0.0)


def _overlap(a: F64, b: F64, box_noise: float) -> tuple[F64, F64]:
    """IoU (N, M) with +1 on widths and heights, and how much of it every side off by box_noise pixels may change."""
    size_a, size_b = a[:, 2:] - a[:, :2] + 1, b[:, 2:] - b[:, :2] + 1
    corner_low = np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.maximum(np.minimum(a[:, None, 2:], b[None, :, 2:]) - corner_low + 1, 0)  # (N, M, 2)
    intersection = shared.prod(axis=2)
    union = size_a.prod(axis=1)[:, None] + size_b.prod(axis=1)[None, :] - intersection
    iou = intersection / np.maximum(union, 1e-9)
    # Each shared side changes by up to 2 * box_noise; the union changes relatively no more than the intersection.
    slack = 4 * box_noise * (1 / np.maximum(shared, 1e-9)).sum(axis=2)
    return iou, np.where(intersection > 0, np.minimum(iou * slack, 1.0), 0.0)


def _pairwise_max(a: F64, b: F64) -> F64:
    """(N, 4), (M, 4) -> (N, M): the largest difference of a coordinate, pixels."""
    return np.maximum.reduce([np.abs(a[:, None, side] - b[None, :, side]) for side in range(4)])
