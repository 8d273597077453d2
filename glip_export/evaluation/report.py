"""Results of one backend or several on the same data set: side by side, as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from rich.table import Table
from rich.text import Text

from glip_export.errors import visible
from glip_export.evaluation.average_precision import PRECISIONS, ClassScore
from glip_export.evaluation.coco import CocoResult
from glip_export.evaluation.dataset import CocoDataset
from glip_export.evaluation.entries import CocoImage
from glip_export.evaluation.problems import Problem, counts

MOST_CLASSES = 100  # shown; the JSON has all
TITLES = dict(zip(PRECISIONS, ("AP", "AP50", "AP75", "AP S", "AP M", "AP L"), strict=True))


class Result(Protocol):
    """What one backend, or a file of detections, came to on a data set."""

    @property
    def values(self) -> Mapping[str, float | None]:
        """The evaluator's numbers by its own names, 0..1; None where there is nothing to measure."""
        ...

    @property
    def found(self) -> int:
        """Detections that were scored."""
        ...

    @property
    def pictures(self) -> int:
        """Pictures that could be read."""
        ...

    @property
    def turned(self) -> int:
        """Of those, by EXIF."""
        ...

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Of the pictures or the file of detections."""
        ...

    @property
    def seconds(self) -> float:
        """That detecting took; 0 where nothing was detected."""
        ...


class Dataset(Protocol):
    """What was evaluated."""

    @property
    def path(self) -> Path:
        """The annotation file."""
        ...

    @property
    def sha256(self) -> str:
        """Of its bytes."""
        ...

    @property
    def folder(self) -> Path:
        """Of the pictures."""
        ...

    @property
    def images(self) -> Sequence[CocoImage]:
        """The pictures."""
        ...

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Broken entries."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What is done otherwise than the file says."""
        ...


R = TypeVar("R", bound=Result)
D = TypeVar("D", bound=Dataset)


@dataclass(frozen=True)
class Report(Generic[D, R]):
    """What several backends came to on one data set; the first is what the others are compared with.

    Each verb of `eval` has its own, which says how the numbers are called and adds tables.
    """

    dataset: D
    results: Mapping[str, R]  # by backend
    asked: Mapping[str, Any]  # for the JSON: bundle, names, batch and so on
    max_difference: float | None = None  # of the headline

    titles: ClassVar[Mapping[str, str]]  # of the numbers in the table; the first is the headline
    others: ClassVar[Mapping[str, str]] = {}  # in the JSON: a number's other name, and the one it has in `values`
    option: ClassVar[str] = "max_ap_difference"  # what the limit is called on the command line and in the JSON

    @property
    def headline(self) -> str:
        """The number that backends are judged by."""
        return next(iter(self.titles))

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
        """Why comparing the headline would compare nothing; "" where it compares something."""
        if len(self.results) < 2:
            return "there is one backend only"
        for backend, result in self.results.items():
            if result.values[self.headline] is None:
                return (
                    f"{backend} has no {self.titles[self.headline]}, for no annotated object is on a picture that "
                    f"could be read"
                )
        if not any(result.found for result in self.results.values()):
            return "no backend detected anything"
        return ""

    @property
    def passed(self) -> bool:
        """No backend's headline is further from the first one's than allowed; never where nothing was compared."""
        return self.max_difference is None or not self.too_far(dict.fromkeys(self.results, self.max_difference))

    def too_far(self, allowed: Mapping[str, float]) -> list[str]:
        """The backends whose headline is further from the first one's than allowed: all where nothing was compared."""
        if self.incomparable:
            return list(allowed)
        return [backend for backend, limit in allowed.items() if not self._distance(backend) <= limit]

    def differences(self, backend: str) -> dict[str, float | None]:
        """Each number minus the first backend's."""
        first = self.results[self.first].values
        return {name: minus(value, first[name]) for name, value in self.results[backend].values.items()}

    def _distance(self, backend: str) -> float:
        found = self.differences(backend)[self.headline]
        return math.nan if found is None else abs(found)

    def tables(self) -> Iterator[Table]:
        """The numbers of each backend, what the verb adds, and what was broken, if anything was."""
        yield self._scores_table()
        yield from self.more_tables()
        if self.problems:
            yield problems_table(self.problems)

    def more_tables(self) -> Iterator[Table]:
        """What the verb shows below its numbers."""
        yield from ()

    def counted(self) -> str:
        """What the numbers are of: "20 pictures, 3 categories"."""
        return f"{self.results[self.first].pictures} pictures"

    def details(self, result: R) -> dict[str, Any]:
        """What the JSON says of a result beside its numbers."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything but the detections; "scores" are the first backend's."""
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
            "scores": self._scores(self.results[self.first]),
            "backends": {backend: self._backend(backend) for backend in self.results},
            self.option: self.max_difference,
            "nothing_compared": self.incomparable if self.max_difference is not None else None,
            "passed": self.passed,
        }

    def _scores(self, result: R) -> dict[str, float | None]:
        return {**result.values, **{other: result.values[name] for other, name in self.others.items()}}

    def _backend(self, backend: str) -> dict[str, Any]:
        result = self.results[backend]
        return {
            "pictures": result.pictures,
            "left_out": len(self.dataset.images) - result.pictures,
            "turned": result.turned,
            "detections": result.found,
            "seconds": round(result.seconds, 3),
            "scores": self._scores(result),
            "differences": None if backend == self.first else self.differences(backend),
            **self.details(result),
        }

    def _scores_table(self) -> Table:
        table = Table(title=self.counted())
        for column in ("backend", *self.titles.values(), "pictures/s"):
            table.add_column(column, justify="left" if column == "backend" else "right")
        for backend, result in self.results.items():
            values = [number(result.values[name]) for name in self.titles]
            table.add_row(backend, *values, f"{result.pictures / result.seconds:.2f}" if result.seconds else "-")
            if backend != self.first:
                found = self.differences(backend)
                table.add_row(f"  - {self.first}", *(signed(found[name]) for name in self.titles), "", style="dim")
        return table


class CocoReport(Report[CocoDataset, CocoResult]):
    """COCO's numbers, and the AP of each category."""

    titles = TITLES
    others: ClassVar[Mapping[str, str]] = {"APs": "AP_small", "APm": "AP_medium", "APl": "AP_large"}  # the original's

    def counted(self) -> str:
        """See `Report`."""
        return f"{super().counted()}, {len(self.dataset.categories)} categories"

    def details(self, result: CocoResult) -> dict[str, Any]:
        """See `Report`."""
        return {"classes": [class_facts(each) for each in result.scores.classes]}

    def more_tables(self) -> Iterator[Table]:
        """See `Report`."""
        rows = zip(*(result.scores.classes for result in self.results.values()), strict=True)
        yield classes_table(list(self.results), [_class_row(row) for row in rows])


def class_facts(found: ClassScore) -> dict[str, Any]:
    """A category's numbers for JSON."""
    return {"id": found.id, "name": found.name, "objects": found.objects, **found.values}


def classes_table(backends: Sequence[str], rows: Sequence[tuple[str, int, Sequence[float | None]]]) -> Table:
    """(name, objects, AP by each backend) of the first categories; how many more there are."""
    table = Table(title="AP of each category")
    for column in ("category", "objects", *backends):
        table.add_column(column, justify="left" if column == "category" else "right")
    for name, objects, values in rows[:MOST_CLASSES]:
        table.add_row(shown(name), str(objects), *map(number, values))
    if len(rows) > MOST_CLASSES:
        table.add_row(f"and {len(rows) - MOST_CLASSES} more", "", *("" for _ in backends))
    return table


def _class_row(row: tuple[ClassScore, ...]) -> tuple[str, int, list[float | None]]:
    return row[0].name, row[0].objects, [each.values["AP"] for each in row]


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


def minus(value: float | None, other: float | None) -> float | None:
    """A difference; None where one of the two is none."""
    return None if value is None or other is None else value - other
