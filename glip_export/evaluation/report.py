"""Results of one backend or several on the same data set: side by side, as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from glip_export.errors import visible
from glip_export.evaluation.average_precision import PRECISIONS
from glip_export.evaluation.coco import CocoResult
from glip_export.evaluation.dataset import CocoDataset
from glip_export.evaluation.problems import Problem, counts

MOST_CLASSES = 100  # shown; the JSON has all
TITLES = dict(zip(PRECISIONS, ("AP", "AP50", "AP75", "AP S", "AP M", "AP L"), strict=True))


@dataclass(frozen=True)
class CocoReport:
    """What several backends found on one data set; the first is what the others are compared with."""

    dataset: CocoDataset
    results: Mapping[str, CocoResult]  # by backend
    asked: Mapping[str, Any]  # for the JSON: bundle, names, batch and so on
    max_ap_difference: float | None = None

    @property
    def first(self) -> str:
        """The backend that the others are compared with."""
        return next(iter(self.results))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Of the annotation file, then of the pictures, once each."""
        found = [problem for result in self.results.values() for problem in result.problems]
        return (*self.dataset.problems, *dict.fromkeys(found))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done otherwise than the files say, though nothing in them is broken; a line each."""
        turned = max(result.turned for result in self.results.values())
        words = f"turned as EXIF says, since they are annotated so: {turned} picture(s)"
        return (*self.dataset.notes, *([words] if turned else []))

    @property
    def incomparable(self) -> str:
        """Why comparing the APs would compare nothing; "" where it compares something."""
        if len(self.results) < 2:
            return "there is one backend only"
        for backend, result in self.results.items():
            if result.scores.values["AP"] is None:
                return f"{backend} has no AP, for no annotated object is on a picture that could be read"
        if not any(result.detections for result in self.results.values()):
            return "no backend detected anything"
        return ""

    @property
    def passed(self) -> bool:
        """No backend's AP is further from the first one's than allowed; never where nothing was compared."""
        return self.max_ap_difference is None or not self.too_far(dict.fromkeys(self.results, self.max_ap_difference))

    def too_far(self, allowed: Mapping[str, float]) -> list[str]:
        """The backends whose AP is further from the first one's than allowed: all where nothing was compared."""
        if self.incomparable:
            return list(allowed)
        return [backend for backend, limit in allowed.items() if not self._ap_distance(backend) <= limit]

    def differences(self, backend: str) -> dict[str, float | None]:
        """Each number of COCO's minus the first backend's."""
        first = self.results[self.first].scores.values
        return {name: _minus(value, first[name]) for name, value in self.results[backend].scores.values.items()}

    def _ap_distance(self, backend: str) -> float:
        found = self.differences(backend)["AP"]
        return math.nan if found is None else abs(found)

    def tables(self) -> Iterator[Table]:
        """COCO's six precisions of each backend, each class's AP, and what was broken, if anything was."""
        yield self._scores_table()
        yield self._classes_table()
        if self.problems:
            yield problems_table(self.problems)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything but the detections."""
        return {
            "annotations": str(self.dataset.path),
            "annotations_sha256": self.dataset.sha256,
            "images": str(self.dataset.folder),
            **self.asked,
            "problems": {
                "counts": counts(self.problems),
                "entries": [{"kind": problem.kind, "text": problem.text} for problem in self.problems],
            },
            "notes": list(self.notes),
            "backends": {backend: self._backend(backend) for backend in self.results},
            "max_ap_difference": self.max_ap_difference,
            "nothing_compared": self.incomparable if self.max_ap_difference is not None else None,
            "passed": self.passed,
        }

    def _backend(self, backend: str) -> dict[str, Any]:
        result = self.results[backend]
        return {
            "pictures": result.pictures,
            "left_out": len(self.dataset.images) - result.pictures,
            "turned": result.turned,
            "detections": len(result.detections),
            "seconds": round(result.seconds, 3),
            "scores": dict(result.scores.values),
            "differences": None if backend == self.first else self.differences(backend),
            "classes": [
                {"id": each.id, "name": each.name, "objects": each.objects, **each.values}
                for each in result.scores.classes
            ],
        }

    def _scores_table(self) -> Table:
        pictures = self.results[self.first].pictures
        table = Table(title=f"{pictures} pictures, {len(self.dataset.categories)} categories")
        for column in ("backend", *TITLES.values(), "pictures/s"):
            table.add_column(column, justify="left" if column == "backend" else "right")
        for backend, result in self.results.items():
            values = [number(result.scores.values[name]) for name in TITLES]
            table.add_row(backend, *values, f"{result.pictures / result.seconds:.2f}" if result.seconds else "-")
            if backend != self.first:
                found = self.differences(backend)
                table.add_row(f"  - {self.first}", *(signed(found[name]) for name in TITLES), "", style="dim")
        return table

    def _classes_table(self) -> Table:
        table = Table(title="AP of each category")
        for column in ("category", "objects", *self.results):
            table.add_column(column, justify="left" if column == "category" else "right")
        rows = list(zip(*(result.scores.classes for result in self.results.values()), strict=True))
        for row in rows[:MOST_CLASSES]:
            table.add_row(shown(row[0].name), str(row[0].objects), *(number(each.values["AP"]) for each in row))
        if len(rows) > MOST_CLASSES:
            table.add_row(f"and {len(rows) - MOST_CLASSES} more", "", *("" for _ in self.results))
        return table


def problems_table(problems: Sequence[Problem]) -> Table:
    """How many of each kind, with the first of each."""
    table = Table(title="broken, left out or doubtful")
    for column in ("what", "how many", "the first"):
        table.add_column(column, justify="right" if column == "how many" else "left")
    for kind, count in counts(problems).items():
        table.add_row(kind, str(count), shown(next(problem.text for problem in problems if problem.kind == kind)))
    return table


def number(value: float | None) -> str:
    """A precision for a table; "-" where there is none."""
    return "-" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A difference of two precisions for a table."""
    return "-" if value is None else f"{value:+.4f}"


def shown(text: str) -> Text:
    """A text from a file as it stands, neither as rich's markup nor with a terminal's control characters."""
    return Text(visible(text))


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
