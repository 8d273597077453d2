"""LVIS's evaluator in its plain form: a loop for every "for each" of its description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glip_export.evaluation.lvis.dataset import LvisDataset
from glip_export.evaluation.lvis.matching import AREAS

THRESHOLDS = np.linspace(0.5, 0.95, 10).tolist()
RECALLS = np.linspace(0, 1, 101).tolist()
Box = Sequence[float]


@dataclass
class PlainFound:
    item: int
    label: int
    score: float
    box: Box


@dataclass
class Verdict:
    score: float
    hit: bool
    ignored: bool


def plain_scores(
    dataset: LvisDataset, found: list[PlainFound], most_a_class: int | None, most_a_picture: int | None
) -> dict[str, float | None]:
    """AP, APr.., APs.., AR and the rest; most: None for no limit."""
    found = _capped(_capped(found, "label", most_a_class), "item", most_a_picture)
    tables: dict[tuple[int, int], tuple[list[list[float]], list[float]]] = {}
    for label in range(len(dataset.categories)):
        for area in range(len(AREAS)):
            table = _table(dataset, found, label, area)
            if table is not None:
                tables[label, area] = table
    limit = -1 if most_a_picture is None else most_a_picture

    def average(area: int = 0, threshold: int | None = None, frequency: str = "rcf") -> float | None:
        values = [
            precision
            for (label, own), (rows, _) in tables.items()
            if own == area and dataset.categories[label].frequency in frequency
            for row in (rows if threshold is None else [rows[threshold]])
            for precision in row
        ]
        return sum(values) / len(values) if values else None

    def recall(area: int) -> float | None:
        values = [value for (_, own), (_, recalls) in tables.items() if own == area for value in recalls]
        return sum(values) / len(values) if values else None

    return {
        "AP": average(),
        "AP50": average(threshold=0),
        "AP75": average(threshold=5),
        "APs": average(1),
        "APm": average(2),
        "APl": average(3),
        "APr": average(frequency="r"),
        "APc": average(frequency="c"),
        "APf": average(frequency="f"),
        f"AR@{limit}": recall(0),
        f"ARs@{limit}": recall(1),
        f"ARm@{limit}": recall(2),
        f"ARl@{limit}": recall(3),
    }


def _capped(found: list[PlainFound], by: str, most: int | None) -> list[PlainFound]:
    if most is None:
        return found
    groups = {getattr(each, by) for each in found}
    kept = [_best_first([each for each in found if getattr(each, by) == group])[:most] for group in sorted(groups)]
    return [each for group in kept for each in group]


def _best_first(found: list[PlainFound]) -> list[PlainFound]:
    return sorted(found, key=lambda each: each.score, reverse=True)  # stable, reversed or not


def _table(
    dataset: LvisDataset, found: list[PlainFound], label: int, area: int
) -> tuple[list[list[float]], list[float]] | None:
    """Precisions and the last recall of each threshold; None where no object counts."""
    low, high = AREAS[area]
    category = dataset.categories[label].id
    precisions, recalls = [], []
    for threshold in THRESHOLDS:
        verdicts: list[Verdict] = []
        total = 0
        for item, image in enumerate(dataset.images):
            objects = [o for o in dataset.objects if (o.image_id, o.category_id) == (image.id, category) and o.area > 0]
            total += sum(low <= each.area <= high for each in objects)
            if not objects and category not in image.neg_category_ids:
                continue
            own = _best_first([each for each in found if (each.item, each.label) == (item, label)])
            counted = [each for each in objects if low <= each.area <= high]
            others = [each for each in objects if each not in counted]
            taken: list[int] = []
            for each in own:
                pixels = each.box[2] * each.box[3]
                if pixels <= 0:
                    continue
                match = _pick(each.box, counted, taken, threshold) or _pick(each.box, others, taken, threshold)
                if match is not None:
                    taken.append(id(match))
                    verdicts.append(Verdict(each.score, match in counted, match in others))
                else:
                    excused = not low <= pixels <= high or category in image.not_exhaustive_category_ids
                    verdicts.append(Verdict(each.score, False, excused))
        if not total:
            return None
        verdicts.sort(key=lambda each: each.score, reverse=True)
        row, last = _curve(verdicts, total)
        precisions.append(row)
        recalls.append(last)
    return precisions, recalls


def _pick(box: Box, objects: list, taken: list[int], threshold: float):  # type: ignore[no-untyped-def, type-arg]
    best, match = threshold, None
    for each in objects:
        if id(each) not in taken and _iou(box, each.box) >= best:
            best, match = _iou(box, each.box), each
    return match


def _iou(one: Box, other: Box) -> float:
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (one[2] * one[3] + other[2] * other[3] - width * height)


def _curve(verdicts: list[Verdict], total: int) -> tuple[list[float], float]:
    right, wrong = 0, 0
    points: list[tuple[float, float]] = []
    for each in verdicts:
        right += each.hit
        wrong += not each.hit and not each.ignored
        points.append((right / total, right / (right + wrong) if right else 0.0))
    row = []
    for recall in RECALLS:
        rest = [precision for place, (_, precision) in enumerate(points) if points[place][0] >= recall]
        row.append(max(rest, default=0.0))
    return row, points[-1][0] if points else 0.0
