"""What is wrong with a data set, entry by entry: reported and counted, and fatal only where that was asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from glip_export.errors import GlipExportError, brief

BROKEN, TWICE = "broken entry", "id used twice"
MOST_NAMED = 100  # of a kind in a ProblemList


@dataclass(frozen=True)
class Problem:
    """One broken picture, annotation or category."""

    kind: str  # what problems are counted by: "annotation: degenerate box"
    text: str  # which one and why, on one line
    times: int = 1  # above 1 for those that are counted, but not named one by one


class BrokenEntryError(Exception):
    """An entry of an annotation file that is left out; for use within this package."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def counts(problems: Iterable[Problem]) -> dict[str, int]:
    """How many of each kind, in the order in which they were first met."""
    found: dict[str, int] = {}
    for problem in problems:
        found[problem.kind] = found.get(problem.kind, 0) + problem.times
    return found


class ProblemList:
    """The problems of what may have millions of them: the first of each kind by name, the others counted."""

    def __init__(self) -> None:
        self._named: list[Problem] = []
        self._times: dict[str, int] = {}

    def add(self, kind: str, text: str) -> None:
        """One more."""
        self._times[kind] = self._times.get(kind, 0) + 1
        if self._times[kind] <= MOST_NAMED:
            self._named.append(Problem(kind, text))

    def listed(self) -> tuple[Problem, ...]:
        """Those that are named, in their order, and what they are too many of."""
        more = {kind: times - MOST_NAMED for kind, times in self._times.items() if times > MOST_NAMED}
        return (*self._named, *(Problem(kind, f"and {times} more", times) for kind, times in more.items()))


def refuse(problem: Problem, path: object) -> GlipExportError:
    """The error that --strict makes of a problem of the annotation file `path`."""
    return GlipExportError(f"{path}: {problem.text}; without --strict it is left out and counted")


def short(value: object) -> str:
    """Any value on one line of at most 60 characters."""
    text = brief(value)
    return text if len(text) <= 60 else text[:57] + "..."
