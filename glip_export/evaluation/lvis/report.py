"""LVIS's numbers of one backend or several: side by side, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.table import Table

from glip_export.evaluation.lvis.dataset import LvisDataset
from glip_export.evaluation.lvis.evaluate import LvisResult
from glip_export.evaluation.lvis.scores import MOST_A_CLASS, MOST_A_PICTURE, LvisClassScore
from glip_export.evaluation.report import Report, classes_table


@dataclass(frozen=True)
class LvisReport(Report[LvisDataset, LvisResult]):
    """LVIS's numbers, and those of each category."""

    normal: bool = False
    most_a_category: int = MOST_A_CLASS

    titles: ClassVar[Mapping[str, str]] = {
        **{"AP": "AP", "APr": "APr", "APc": "APc", "APf": "APf", "AP50": "AP50", "AP75": "AP75"},
        **{"APs": "AP S", "APm": "AP M", "APl": "AP L"},
    }

    def counted(self) -> str:
        """See `Report`."""
        limit = (
            f"{MOST_A_PICTURE} best a picture" if self.normal else f"fixed AP, {self.most_a_category} best a category"
        )
        return f"{super().counted()}, {len(self.dataset.categories)} categories: {limit}"

    def details(self, result: LvisResult) -> dict[str, Any]:
        """See `Report`."""
        return {
            "mode": "normal" if self.normal else "fixed",
            "most_a_category": None if self.normal else self.most_a_category,
            "counted": result.scores.counted,
            "classes": [_class_facts(each) for each in result.scores.classes],
        }

    def more_tables(self) -> Iterator[Table]:
        """See `Report`; the categories with the most objects come first."""
        rows = sorted(
            zip(*(result.scores.classes for result in self.results.values()), strict=True),
            key=lambda row: -row[0].objects,
        )
        yield classes_table(
            list(self.results), [(row[0].name, row[0].objects, [each.values["AP"] for each in row]) for row in rows]
        )


def _class_facts(found: LvisClassScore) -> dict[str, Any]:
    facts = {"id": found.id, "name": found.name, "frequency": found.frequency, "objects": found.objects}
    return {**facts, **found.values}
