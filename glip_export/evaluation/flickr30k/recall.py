"""Recall@k of phrases as Flickr30k's evaluator in GLIP counts it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glip_export.errors import GlipExportError
from glip_export.evaluation.flickr30k.entities import Truth, named, sentence_key
from glip_export.evaluation.flickr30k.grounding import Grounded, with_empty_box

IOU = 0.5  # a box is met from here on
ALL = "all"
COUNTED = {"Recall@1": 1, "Recall@5": 5, "Recall@10": 10, "Upper_bound": None}  # how many boxes of a phrase; None: all


@dataclass(frozen=True)
class Recall:
    """The numbers by the original's names, 0..1, and what they are of."""

    values: Mapping[str, float | None]  # "Recall@1_all", "Recall@1_animals" ...; None where there is no such phrase
    phrases: Mapping[str, int]  # how many there are of each type, "all" first
    sentences: int


class RecallCounter:
    """Counts the phrases that are met, sentence by sentence.

    left_out: keys of sentences that count for nothing, since their picture could not be read.
    """

    def __init__(self, truth: Truth, left_out: Collection[str] = ()) -> None:
        self._truth = {key: targets for key, targets in truth.items() if key not in left_out}
        self._typed = dict(truth)  # the sentences whose types have numbers
        self._seen: set[str] = set()
        self._total: dict[str, int] = defaultdict(int)
        self._met: dict[tuple[str, str], int] = defaultdict(int)

    def add(self, found: Grounded) -> bool:
        """Counts a sentence's phrases; False where it was counted before, so that it is not again.

        One that was left out counts for nothing from then on, as if the truth had not had it. Sentences that are not
        scored are no matter. Raises GlipExportError where there are not as many lists of boxes as phrases.
        """
        key = sentence_key(found.image_id, found.sentence_id)
        if key in self._seen:
            return False
        if key not in self._truth:
            return True
        self._seen.add(key)
        if found.left_out:
            del self._truth[key], self._typed[key]
            return True
        targets = self._truth[key]
        if len(found.boxes) != len(targets):
            raise GlipExportError(
                f"{named(key)} has boxes for {len(found.boxes)} phrase(s), but {len(targets)} are scored"
            )
        for boxes, target in zip(found.boxes, targets, strict=True):
            best = overlaps(with_empty_box(boxes), target.boxes)
            for each in (ALL, *target.types):
                self._total[each] += 1
            for name, most in COUNTED.items():
                if best[:most].max() >= IOU:
                    for each in (ALL, *target.types):
                        self._met[name, each] += 1
        return True

    @property
    def missing(self) -> list[str]:
        """Keys of the sentences that are scored and were not counted yet."""
        return [key for key in self._truth if key not in self._seen]

    def result(self, reason: str = "") -> Recall:
        """The numbers; reason: what may be why a sentence is missing. Raises GlipExportError where one is."""
        if missing := self.missing:
            raise GlipExportError(
                f"nothing is given for {len(missing)} of {len(self._truth)} sentences, the first of them "
                f"{named(missing[0])}{reason}"
            )
        types = {each for targets in self._typed.values() for target in targets for each in target.types}
        names = sorted({ALL, *types})
        values = {f"{name}_{each}": self._share(name, each) for name in COUNTED for each in names}
        phrases = {each: self._total[each] for each in dict.fromkeys((ALL, *names))}
        return Recall(values, phrases, len(self._truth))

    def _share(self, name: str, each: str) -> float | None:
        return self._met[name, each] / self._total[each] if self._total[each] else None


def overlaps(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each box's largest intersection over union (n,) with any of the others, in float64 without 1 added.

    Boxes (n, 4) and others (m, 4), m above 0, are xyxy. Where both of a pair are without area it is 0/0, and a list
    with such a pair in it counts as not met, as in the original. A box that is too large for its area to be a number
    overlaps nothing.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        corners = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
        inter = corners.clip(min=0).prod(-1)
        found: NDArray[np.float64] = (inter / (_areas(boxes)[:, None] + _areas(others) - inter)).max(1)
    return found


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas[np.isnan(areas)] = 0  # a side without length beside one without end
    return areas
