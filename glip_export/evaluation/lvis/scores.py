"""LVIS's numbers, as the original's evaluator computes them, for detections that come block by block."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glip_export.evaluation.lvis.best import ROW, Best, Rows
from glip_export.evaluation.lvis.dataset import FREQUENCIES, LvisDataset
from glip_export.evaluation.lvis.matching import AREAS, F64, THRESHOLDS, Bools, Matches, Truth, match
from glip_export.evaluation.rows import Found

MOST_A_CLASS = 10_000  # "fixed" AP: over the data set, without a limit a picture
MOST_A_PICTURE = 300  # "normal" AP
RECALLS = np.linspace(0.0, 1.0, 101)
ALL, SIZES = 0, ("s", "m", "l")  # of AREAS


@dataclass(frozen=True)
class LvisClassScore:
    """Of one category; values 0..1, None without an object that counts."""

    id: int
    name: str
    frequency: str  # r, c or f
    objects: int
    values: Mapping[str, float | None]  # AP, AP50, recall (at IoU 0.5)


@dataclass(frozen=True)
class LvisScores:
    """By the original's names, 0..1, None where nothing counts; with "fixed" AP the recalls are AR@-1, else AR@300."""

    values: Mapping[str, float | None]
    classes: tuple[LvisClassScore, ...]  # in the data set's order
    counted: int  # detections that were left after the limit a class or a picture


def score_lvis(
    dataset: LvisDataset,
    blocks: Iterable[Found],
    *,
    normal: bool = False,
    most_a_class: int = MOST_A_CLASS,
    left_out: Collection[int] = (),
) -> LvisScores:
    """Scores detections; blocks: theirs, in the order of the pictures.

    By default "fixed" AP: the `most_a_class` best of every class over the data set. normal: the 300 best of every
    picture. left_out: places of pictures that are not counted, with their objects. A detection counts only where its
    class is among the picture's objects or its neg_category_ids, and is no mistake where it is among
    its not_exhaustive_category_ids.
    """
    rising = np.argsort(dataset.category_ids, kind="stable")  # the order that the original takes means in
    shape = (len(THRESHOLDS), len(RECALLS), len(rising), len(AREAS))
    precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
    rank = np.argsort(rising)
    truths = _Truths(dataset, left_out)
    counted = 0
    for label, rows in _kept(dataset, blocks, normal, most_a_class):
        counted += len(rows)
        place = rank[label]
        precision[:, :, place], recall[:, place] = _curves(rows, *truths.of(label))
    results = {
        "AP": _mean(precision[..., ALL]),
        "AP50": _mean(precision[THRESHOLDS == 0.5, :, :, ALL]),
        "AP75": _mean(precision[THRESHOLDS == 0.75, :, :, ALL]),
        **{f"AP{size}": _mean(precision[..., area]) for area, size in enumerate(SIZES, start=1)},
    }
    frequencies = np.array([dataset.categories[label].frequency for label in rising])
    results |= {f"AP{each}": _mean(precision[:, :, frequencies == each, ALL]) for each in FREQUENCIES}
    limit = MOST_A_PICTURE if normal else -1
    results |= {f"AR{size}@{limit}": _mean(recall[..., area]) for area, size in enumerate(("", *SIZES))}
    return LvisScores(
        results,
        tuple(
            LvisClassScore(
                category.id,
                category.name,
                category.frequency,
                len(truths.of(label)[0].item),
                {
                    "AP": _mean(precision[:, :, rank[label], ALL]),
                    "AP50": _mean(precision[0, :, rank[label], ALL]),
                    "recall": _mean(recall[:1, rank[label], ALL]),
                },
            )
            for label, category in enumerate(dataset.categories)
        ),
        counted,
    )


def _kept(dataset: LvisDataset, blocks: Iterable[Found], normal: bool, most: int) -> Iterator[tuple[int, Rows]]:
    """Each label with the detections of it that are left, in the order in which the original lists them."""
    classes, pictures = len(dataset.categories), len(dataset.images)
    best = Best("item", pictures, MOST_A_PICTURE) if normal else Best("label", classes, most)
    for block in blocks:
        best.add(block)
    if not normal:
        yield from enumerate(best.groups())
        return
    rows = np.concatenate([np.empty(0, ROW), *best.groups()])
    rows = rows[np.argsort(rows["label"], kind="stable")]
    yield from enumerate(np.split(rows, np.searchsorted(rows["label"], np.arange(1, classes))))


class _Truths:
    """The ground truth, a class at a time."""

    def __init__(self, dataset: LvisDataset, left_out: Collection[int]) -> None:
        items = {image.id: item for item, image in enumerate(dataset.images) if item not in left_out}
        labels = {category_id: label for label, category_id in enumerate(dataset.category_ids)}
        # The original drops what has no area before it does anything else.
        entries = [each for each in dataset.objects if each.area > 0 and each.image_id in items]
        item = np.array([items[each.image_id] for each in entries], np.int64)
        label = np.array([labels[each.category_id] for each in entries], np.int64)
        order = np.lexsort((item, label))  # stable: the file's order within a picture
        self._item = item[order]
        self._box = np.array([each.box for each in entries], np.float64).reshape(-1, 4)[order]
        self._area = np.array([each.area for each in entries], np.float64)[order]
        self._ends = np.cumsum(np.bincount(label, minlength=len(labels)))
        self._pictures = len(dataset.images)
        self._negative: list[list[int]] = [[] for _ in labels]
        self._not_exhaustive: list[list[int]] = [[] for _ in labels]
        for image in dataset.images:
            if image.id in items:
                for ids, lists in (
                    (image.neg_category_ids, self._negative),
                    (image.not_exhaustive_category_ids, self._not_exhaustive),
                ):
                    for category_id in ids & labels.keys():
                        lists[labels[category_id]].append(items[image.id])

    def of(self, label: int) -> tuple[Truth, Bools, Bools]:
        """A class's objects; of every picture, whether the class is annotated there, and whether not everywhere."""
        own = slice(self._ends[label - 1] if label else 0, self._ends[label])
        truth = Truth(self._item[own], self._box[own], self._area[own])
        known, partly = np.zeros((2, self._pictures), np.bool_)
        known[truth.item] = True
        known[self._negative[label]] = True
        partly[self._not_exhaustive[label]] = True
        return truth, known, partly


def _curves(rows: Rows, truth: Truth, known: Bools, partly: Bools) -> tuple[F64, F64]:
    """Precisions (thresholds, recalls, areas) and recalls (thresholds, areas) of a class; -1 where no object counts."""
    precision = np.full((len(THRESHOLDS), len(RECALLS), len(AREAS)), -1.0)
    recall = np.full((len(THRESHOLDS), len(AREAS)), -1.0)
    objects = np.count_nonzero(~truth.outside(), axis=1)
    if not objects.any():
        return precision, recall
    pixels = rows["box"][:, 2] * rows["box"][:, 3]
    rows = rows[known[rows["item"]] & (pixels > 0) & (pixels < np.inf)]
    rows = rows[np.lexsort((-rows["score"], rows["item"]))]
    matches = match(rows, truth, partly[rows["item"]])
    ranking = np.argsort(-rows["score"], kind="stable")
    for area, number in enumerate(objects.tolist()):
        if number:
            precision[..., area], recall[:, area] = _curve(matches, area, ranking, number)
    return precision, recall


def _curve(matches: Matches, area: int, ranking: NDArray[np.int64], objects: int) -> tuple[F64, F64]:
    """Precisions (thresholds, recalls) and recalls (thresholds,) of a class in a range of areas."""
    precision, recall = np.zeros((len(THRESHOLDS), len(RECALLS))), np.zeros(len(THRESHOLDS))
    if not len(ranking):
        return precision, recall
    hit, ignored = matches.hit[area][:, ranking], matches.ignored[area][:, ranking]
    right = np.cumsum(hit, axis=1).astype(np.float64)
    wrong = np.cumsum(~hit & ~ignored, axis=1).astype(np.float64)
    recalls = right / objects
    precisions = right / (wrong + right + np.spacing(1))
    precisions = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
    for threshold in range(len(THRESHOLDS)):
        at = np.searchsorted(recalls[threshold], RECALLS, side="left")
        reached = at[at < len(ranking)]
        precision[threshold, : len(reached)] = precisions[threshold, reached]
    return precision, recalls[:, -1]


def _mean(values: F64) -> float | None:
    counted = values[values > -1]
    return float(np.mean(counted)) if len(counted) else None
