"""Flickr30k's recalls of one backend or several: side by side, by type of phrase, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.table import Table

from glip_export.evaluation.flickr30k.dataset import FlickrDataset
from glip_export.evaluation.flickr30k.evaluate import FlickrResult
from glip_export.evaluation.flickr30k.recall import ALL, COUNTED
from glip_export.evaluation.report import Report, number, shown

TITLES = {"Recall@1": "R@1", "Recall@5": "R@5", "Recall@10": "R@10", "Upper_bound": "upper bound"}


@dataclass(frozen=True)
class FlickrReport(Report[FlickrDataset, FlickrResult]):
    """The recalls of all phrases, and those of each type."""

    merged: bool = False

    titles: ClassVar[Mapping[str, str]] = {f"{name}_{ALL}": TITLES[name] for name in COUNTED}
    option: ClassVar[str] = "max_recall_difference"

    def counted(self) -> str:
        """See `Report`."""
        recall = self.results[self.first].recall
        mode = "merged boxes" if self.merged else "separate boxes"
        return f"{super().counted()}, {recall.sentences} sentences, {recall.phrases[ALL]} phrases: {mode}"

    def details(self, result: FlickrResult) -> dict[str, Any]:
        """See `Report`."""
        return {
            "mode": "merged" if self.merged else "separate",
            "sentences": result.recall.sentences,
            "phrases": dict(result.recall.phrases),
        }

    def more_tables(self) -> Iterator[Table]:
        """See `Report`; the types with the most phrases come first."""
        for backend, result in self.results.items():
            table = Table(title=f"recall of each type of phrase, {backend}")
            for column in ("type", "phrases", *TITLES.values()):
                table.add_column(column, justify="left" if column == "type" else "right")
            types = [each for each in result.recall.phrases if each != ALL]
            for each in sorted(types, key=lambda name: -result.recall.phrases[name]):
                values = [number(result.values[f"{name}_{each}"]) for name in COUNTED]
                table.add_row(shown(each), str(result.recall.phrases[each]), *values)
            yield table
