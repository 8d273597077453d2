"""What a data set is made of, whatever its format: the shards of a run, thresholds, and a split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from glip_export.labelling.shards import Labelled, read_shard, read_shards
from glip_export.labelling.split import TRAIN, VAL, split_of
from glip_export.labelling.thresholds import Thresholds

Pictures = Literal["link", "copy", "none"]


@dataclass(frozen=True)
class Conversion:
    """A run's output folder, and what is to be made of it.

    names: the prompt's, by label. val: the share of pictures that validate, 0 for no split. pictures: how a format that
    needs them has them. about: what the data set says of itself, for JSON (bundle, prompt, backend).
    """

    output: Path
    names: tuple[str, ...]
    thresholds: Thresholds
    val: float = 0.0
    pictures: Pictures = "link"
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        """What the data set is split into: TRAIN and VAL, or "" alone."""
        return (TRAIN, VAL) if self.val else ("",)

    def split(self, source: str) -> str:
        """Which of `splits` a picture belongs to."""
        return split_of(source, self.val) if self.val else ""

    def labelled(self) -> Iterator[Labelled]:
        """All pictures in the source's order, with the detections that reach their thresholds."""
        for each in read_shards(self.output):
            yield replace(each, answer=self.thresholds.kept(each.answer))

    def shard(self, path: Path) -> Iterator[Labelled]:
        """As `labelled`, of one shard."""
        for each in read_shard(path):
            yield replace(each, answer=self.thresholds.kept(each.answer))


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns whose values JSON can say; all others (bytes, times, NaN) are left out."""
    return {name: value for name, value in values.items() if _is_json(value)}


def _is_json(value: object) -> bool:
    if value is None or isinstance(value, (bool, int, str)):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    return isinstance(value, dict) and all(isinstance(name, str) and _is_json(each) for name, each in value.items())
