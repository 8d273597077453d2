"""What a run came to: pictures, boxes by name, errors by kind, speed; from one reading of its shards."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from glip_export.bundle.files import atomic_write_text, remove_link
from glip_export.errors import visible
from glip_export.labelling.shards import Labelled, read_shards
from glip_export.labelling.thresholds import Thresholds

FILE = "summary.json"
MOST_CLASSES = 30  # shown; the JSON has all
_MOST_KINDS = 100  # of errors that are told apart
_LONGEST_KIND = 100  # characters
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


@dataclass(frozen=True)
class ClassCount:
    """How often a name was found, and on how many pictures."""

    name: str
    threshold: float
    boxes: int
    pictures: int


@dataclass(frozen=True)
class Summary:
    """Counts of a run. empty: answered pictures without a box. errors: how often by kind, the most frequent first."""

    pictures: int
    answered: int
    empty: int
    classes: tuple[ClassCount, ...]  # in the prompt's order
    errors: dict[str, int]
    seconds: float  # that this start of the run took
    labelled: int  # pictures in that time: fewer than all where the run went on

    @classmethod
    def of(
        cls, output: Path, names: Sequence[str], thresholds: Thresholds, seconds: float, labelled: int | None = None
    ) -> Summary:
        """Of a run's output folder; labelled: None for all its pictures."""
        return cls.counted(read_shards(output), names, thresholds, seconds, labelled)

    @classmethod
    def counted(
        cls,
        rows: Iterable[Labelled],
        names: Sequence[str],
        thresholds: Thresholds,
        seconds: float,
        labelled: int | None = None,
    ) -> Summary:
        """Of pictures as they come, in the memory of one."""
        boxes, pictures = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
        total = empty = 0
        errors: Counter[str] = Counter()
        for row in rows:
            total += 1
            if row.answer.error:
                kind = error_kind(row.answer.error)
                errors[kind if kind in errors or len(errors) < _MOST_KINDS else "others"] += 1
                continue
            labels = thresholds.kept(row.answer).labels
            found = np.bincount(labels, minlength=len(names))
            boxes += found
            pictures += found > 0
            empty += not len(labels)
        counts = zip(names, thresholds.values, boxes.tolist(), pictures.tolist(), strict=True)
        return cls(
            pictures=total,
            answered=total - errors.total(),
            empty=empty,
            classes=tuple(ClassCount(*each) for each in counts),
            errors=dict(errors.most_common()),
            seconds=seconds,
            labelled=total if labelled is None else labelled,
        )

    @property
    def boxes(self) -> int:
        """Of all names."""
        return sum(each.boxes for each in self.classes)

    @property
    def pictures_per_second(self) -> float:
        """0 where nothing was labelled."""
        return self.labelled / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pictures": self.pictures,
            "answered": self.answered,
            "without_boxes": self.empty,
            "boxes": self.boxes,
            "classes": [vars(each) for each in self.classes],
            "errors": self.errors,
            "labelled_now": self.labelled,
            "seconds": round(self.seconds, 3),
            "pictures_per_second": round(self.pictures_per_second, 3),
        }

    def write(self, output: Path, more: dict[str, Any] | None = None) -> Path:
        """Writes summary.json into a run's output folder, what `more` says first; returns it."""
        target = output / FILE
        remove_link(target)
        atomic_write_text(target, json.dumps({**(more or {}), **self.to_dict()}, indent=1) + "\n")
        return target

    def table(self) -> Table:
        """The names that were found most, how often, and what became of all pictures."""
        ranked = sorted(self.classes, key=lambda each: -each.boxes)
        table = Table(title=f"{self.boxes} box(es) on {self.answered} picture(s)")
        for column in ("name", "boxes", "pictures", "threshold"):
            table.add_column(column, justify="left" if column == "name" else "right")
        for each in ranked[:MOST_CLASSES]:
            table.add_row(_shown(each.name), str(each.boxes), str(each.pictures), f"{each.threshold:g}")
        rest = ranked[MOST_CLASSES:]
        if rest:
            table.add_row(f"and {len(rest)} more names", str(sum(each.boxes for each in rest)), "", "")
        return table

    def errors_table(self) -> Table | None:
        """Errors by kind; None where there are none."""
        if not self.errors:
            return None
        table = Table(title=f"{self.pictures - self.answered} picture(s) could not be labelled")
        table.add_column("why")
        table.add_column("pictures", justify="right")
        for kind, count in self.errors.items():
            table.add_row(_shown(kind), str(count))
        return table

    def lines(self) -> list[str]:
        """Pictures, those without a box, errors, and speed."""
        line = f"{self.pictures} picture(s), {self.empty} of them without a box"
        if self.errors:
            line += f", {self.pictures - self.answered} with an error"
        if not self.labelled:
            return [f"{line}; all were labelled before"]
        kept = "" if self.labelled == self.pictures else f"{self.labelled} of them labelled now, "
        return [f"{line}; {kept}{self.seconds:.2f} s, {self.pictures_per_second:.2f} pictures/s"]


def error_kind(message: str) -> str:
    """What messages of one kind share: no names, no numbers, no more than their beginning."""
    kind = re.sub(r"\d+", "N", _QUOTED.sub("...", message))
    return kind if len(kind) <= _LONGEST_KIND else f"{kind[:_LONGEST_KIND]}..."


def _shown(text: str) -> Text:
    # As Text: what users name is no markup, and no line or escape sequence of its own.
    return Text(visible(text))
