"""What parity found: JSON for machines, a table and one plain sentence for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glip_export.parity.ladder import Comparison, ParityResult
from glip_export.parity.metrics import TensorDiff, Tolerance
from glip_export.parity.pairing import DetectionDiff

_SHOWN = 12  # failures listed below the table; the JSON has them all
_GOOD, _BAD = Text("✓", "green"), Text("✗", "red")


@dataclass(frozen=True)
class ParityReport:
    """All candidates of one reference."""

    results: Sequence[ParityResult]
    versions: Mapping[str, str] = field(default_factory=dict)  # of the programs that took part, by name

    @property
    def passed(self) -> bool:
        return bool(self.results) and all(result.passed for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """Ready for json.dumps, strictly: a number that is not finite becomes None."""
        first = self.results[0] if self.results else None
        report = {
            "passed": self.passed,
            "verdict": self.verdict(),
            "reference": first.reference if first else None,
            "tolerance": asdict(first.tolerance) if first else None,
            "versions": dict(self.versions),
            "backends": {result.backend: _result_dict(result) for result in self.results},
        }
        return _strict(report)

    def table(self) -> RenderableType:
        """Per backend: the graphs' outputs, the detections, what failed; then the verdict."""
        parts: list[RenderableType] = [_tensor_table(self.results), _detection_table(self.results)]
        for result in self.results:
            failures = result.failures()
            parts += [Text(f"{result.backend}: {line}", "red") for line in failures[:_SHOWN]]
            if len(failures) > _SHOWN:
                parts.append(Text(f"{result.backend}: and {len(failures) - _SHOWN} more", "red"))
        return Group(*parts, Text(self.verdict(), "bold green" if self.passed else "bold red"))

    def verdict(self) -> str:
        """One sentence: passed or failed, who, on what, within what."""
        if not self.results:
            return "FAILED: no backend was compared."
        failed = [result for result in self.results if not result.passed]
        if failed:
            return f"FAILED: {'; '.join(_failure_sentence(result) for result in failed)}."
        first = self.results[0]
        names = " and ".join(result.backend for result in self.results)
        pictures = list(first.pictures())
        detections = sum(picture.reference for picture in pictures)
        found = f"{_count(detections, 'detection')} in {_count(len(pictures), 'picture')}"
        if not detections:  # true of random weights; then boxes, scores and NMS are unproven, which a reader must know
            found = "NO detections, so boxes, scores and NMS were not compared"
        return (
            f"PASSED: {names} {'equals' if len(self.results) == 1 else 'equal'} {first.reference} "
            f"within {_limits(first.tolerance)} on {_count(len(first.cases), 'case')} ({found})."
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _limits(tolerance: Tolerance) -> str:
    return f"{tolerance.relative:g} of rms, {tolerance.box_px:g} px and {tolerance.score:g} of score"


def _failure_sentence(result: ParityResult) -> str:
    failures = result.failures()
    if not failures:
        return f"{result.backend}: no case was run"
    rest = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"{result.backend}: {failures[0]}{rest}"


def _tensor_table(results: Sequence[ParityResult]) -> Table:
    table = Table(title="Graph outputs, worst of all cases")
    for heading in ("backend", "output"):
        table.add_column(heading)
    for heading in ("max abs", "max / rms", "cosine", "NaN, inf"):
        table.add_column(heading, justify="right")
    table.add_column("worst case")
    table.add_column("")
    for result in results:
        for index, (name, (case, diff)) in enumerate(result.worst().items()):
            bad = _rule_broken(result.cases, name) or not diff.within(result.tolerance)
            table.add_row(
                Text(result.backend) if index == 0 else "",
                name,
                _number(diff.max_abs),
                _number(diff.relative),
                f"{diff.cosine:.7f}",
                str(diff.nan + diff.inf),
                Text(case),
                _BAD if bad else _GOOD,
            )
        table.add_section()
    return table


def _detection_table(results: Sequence[ParityResult]) -> Table:
    table = Table(title="Detections of all pictures")
    for heading in ("backend", "against"):
        table.add_column(heading)
    for heading in ("detections", "paired", "within noise", "real differences", "box px", "score"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for result in results:
        for index, (label, compared) in enumerate(_detection_rows(result)):
            pictures = [picture for item in compared for picture in item.pictures]
            within = all(picture.within(result.tolerance) for picture in pictures) and not any(
                item.error or item.broken for item in compared
            )
            table.add_row(
                Text(result.backend) if index == 0 else "",
                Text(label),
                *(str(value) for value in _totals(pictures).values()),
                _number(max((picture.box_px for picture in pictures), default=math.nan)),
                _number(max((picture.score for picture in pictures), default=math.nan)),
                _GOOD if within and pictures else _BAD,
            )
        table.add_section()
    return table


def _detection_rows(result: ParityResult) -> Iterator[tuple[str, tuple[Comparison, ...]]]:
    yield result.reference, result.cases
    yield "itself, alone in the batch", (result.batch_invariance,)


def _totals(pictures: list[DetectionDiff]) -> dict[str, int]:
    return {
        "reference": sum(picture.reference for picture in pictures),
        "paired": sum(picture.paired for picture in pictures),
        "within_noise": sum(len(picture.within_noise) for picture in pictures),
        "real": sum(len(picture.real) for picture in pictures),
    }


def _rule_broken(cases: tuple[Comparison, ...], name: str) -> bool:
    return any(rule.startswith(f"{name}:") for item in cases for rule in item.broken)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1e}"


def _result_dict(result: ParityResult) -> dict[str, Any]:
    pictures = list(result.pictures())
    return {
        "passed": result.passed,
        "failures": result.failures(),
        "worst": {
            **{name: {"case": case, **_diff_dict(diff)} for name, (case, diff) in result.worst().items()},
            "detections": {
                **_totals(pictures),
                "box_px": max((picture.box_px for picture in pictures), default=None),
                "score": max((picture.score for picture in pictures), default=None),
            },
        },
        "cases": [_comparison_dict(item, result.tolerance) for item in result.cases],
        "batch_invariance": _comparison_dict(result.batch_invariance, result.tolerance),
    }


def _comparison_dict(item: Comparison, tolerance: Tolerance) -> dict[str, Any]:
    failures = item.failures(tolerance)
    return {
        "name": item.name,
        "passed": not failures,
        "failures": failures,
        "tensors": [{"output": name, **_diff_dict(diff)} for name, diff in item.tensors],
        "scores_by_rank": [_diff_dict(diff) for diff in item.scores],
        "detections": [{"passed": picture.within(tolerance), **asdict(picture)} for picture in item.pictures],
    }


def _diff_dict(diff: TensorDiff) -> dict[str, Any]:
    return {**asdict(diff), "finite": diff.finite}


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
