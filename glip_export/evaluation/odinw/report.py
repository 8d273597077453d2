"""COCO's numbers of several data sets and their average, of one backend or several: as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table

from glip_export.evaluation.report import TITLES, CocoReport, minus, number, problems_table, shown, signed

AVERAGE = "average"
HEADLINE = next(iter(TITLES))


@dataclass(frozen=True)
class OdinwReport:
    """The reports of data sets, each by its own name, all of the same backends."""

    tasks: Mapping[str, CocoReport]
    asked: Mapping[str, Any]  # for the JSON
    max_difference: float | None = None  # of each data set's AP; that of their reports too
    not_evaluated: Mapping[str, str] = field(default_factory=dict)  # other data sets, and why they have no numbers

    @property
    def backends(self) -> tuple[str, ...]:
        """The first is what the others are compared with."""
        return tuple(next(iter(self.tasks.values())).results)

    def values(self, backend: str) -> dict[str, float | None]:
        """The averages: of the data sets that have the number, each counting once."""
        found = [report.results[backend].values for report in self.tasks.values()]
        return {name: _mean([values[name] for values in found]) for name in found[0]}

    def differences(self, backend: str) -> dict[str, float | None]:
        """Each average minus the first backend's."""
        first = self.values(self.backends[0])
        return {name: minus(value, first[name]) for name, value in self.values(backend).items()}

    @property
    def failed(self) -> tuple[str, ...]:
        """The data sets with a backend that is too far from the first, or with nothing to compare, and why."""
        if self.max_difference is None:
            return ()
        compared = [f"{name}: {_why(report)}" for name, report in self.tasks.items() if not report.passed]
        return (*compared, *(f"{name}: it could not be evaluated" for name in self.not_evaluated))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done otherwise than the files say, data set by data set, and what is not in the average."""
        found = [f"{name}: {note}" for name, report in self.tasks.items() for note in report.notes]
        first = self.backends[0]
        without = [name for name, report in self.tasks.items() if report.results[first].values[HEADLINE] is None]
        found += [f"not in the average, for it failed: {name}: {why}" for name, why in self.not_evaluated.items()]
        return (*found, *([f"not in the average, without an {HEADLINE}: {', '.join(without)}"] if without else []))

    def tables(self) -> Iterator[Table]:
        """Every data set's numbers with the average, and what was broken, if anything was."""
        several = len(self.backends) > 1
        table = Table(title=f"{len(self.tasks) + len(self.not_evaluated)} data set(s)")
        for column in ("data set", "pictures", "categories", *(["backend"] if several else []), *TITLES.values()):
            table.add_column(column, justify="left" if column in ("data set", "backend") else "right")
        for name, report in self.tasks.items():
            pictures = str(report.results[report.first].pictures)
            _add_rows(table, (name, pictures, str(len(report.dataset.asked))), report, self.backends)
        for name in self.not_evaluated:
            table.add_row(shown(name), *([""] * (3 if several else 2)), "failed", style="red")
        table.add_section()
        _add_rows(table, (AVERAGE, "", ""), self, self.backends)
        yield table
        problems = [
            replace(problem, text=f"{name}: {problem.text}")
            for name, report in self.tasks.items()
            for problem in report.problems
        ]
        if problems:
            yield problems_table(problems)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything but the detections; "scores" are the first backend's averages."""
        return {
            **self.asked,
            "scores": self._scores(self.backends[0]),
            AVERAGE: {backend: self._average(backend) for backend in self.backends},
            "notes": list(self.notes),
            "tasks": {name: report.to_dict() for name, report in self.tasks.items()},
            CocoReport.option: self.max_difference,
            "not_evaluated": dict(self.not_evaluated),
            "failed": list(self.failed),
            "passed": not (self.failed or self.not_evaluated),
        }

    def _scores(self, backend: str) -> dict[str, float | None]:
        found = self.values(backend)
        return {**found, **{other: found[name] for other, name in CocoReport.others.items()}}

    def _average(self, backend: str) -> dict[str, Any]:
        counted = [report.results[backend].values[HEADLINE] is not None for report in self.tasks.values()]
        first = backend == self.backends[0]
        return {
            "data_sets": sum(counted),
            "scores": self._scores(backend),
            "differences": None if first else self.differences(backend),
        }


def _add_rows(table: Table, lead: tuple[str, ...], report: CocoReport | OdinwReport, backends: tuple[str, ...]) -> None:
    """A row a backend, and one for its difference to the first."""
    for place, backend in enumerate(backends):
        found = report.values(backend) if isinstance(report, OdinwReport) else report.results[backend].values
        words = [
            *map(shown, lead if place == 0 else [""] * len(lead)),
            *([shown(backend)] if len(backends) > 1 else []),
        ]
        table.add_row(*words, *(number(found[name]) for name in TITLES))
        if place:
            differences = report.differences(backend)
            blank = [""] * len(lead)
            table.add_row(*blank, f"  - {backends[0]}", *(signed(differences[name]) for name in TITLES), style="dim")


def _why(report: CocoReport) -> str:
    if report.incomparable:
        return report.incomparable
    others = (backend for backend in report.results if backend != report.first)
    return ", ".join(f"{backend} {signed(report.differences(backend)[HEADLINE])}" for backend in others)


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
