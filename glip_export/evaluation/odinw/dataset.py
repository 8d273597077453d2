"""An ODinW data set: COCO's format, with the original's rule for a background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glip_export.evaluation.categories import BACKGROUND
from glip_export.evaluation.dataset import CocoDataset
from glip_export.evaluation.entries import CocoCategory
from glip_export.evaluation.problems import short


@dataclass(frozen=True)
class OdinwDataset(CocoDataset):
    """Every category is evaluated; one with the id 0 or the name `__background__` is not asked for.

    As in the original it keeps its label and its place among the categories: its objects, if any, are never found.
    """

    @classmethod
    def select(
        cls, categories: Sequence[CocoCategory], annotated: set[int]
    ) -> tuple[Sequence[CocoCategory], tuple[str, ...]]:
        """See `CocoDataset`."""
        notes = [
            f"not asked for, as in the original: {short(each.name)} (id {each.id})"
            + (", whose objects count as never found" if each.id in annotated else "")
            for each in categories
            if is_background(each)
        ]
        return categories, tuple(notes)

    @property
    def asked(self) -> tuple[CocoCategory, ...]:
        """See `CocoDataset`."""
        return tuple(each for each in self.categories if not is_background(each))


def is_background(category: CocoCategory) -> bool:
    """Whether the original leaves a category out of the caption."""
    return category.id == 0 or category.name == BACKGROUND
