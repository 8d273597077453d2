"""A data set in LVIS's format: COCO's, with what each picture is annotated for and how often a category occurs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar
from urllib.parse import urlsplit

from glip_export.evaluation.dataset import CocoDataset
from glip_export.evaluation.entries import (
    OUTSIDE,
    CocoCategory,
    CocoImage,
    CocoObject,
    entry_fields,
    identifier,
    is_inside,
    parse_category,
    parse_size,
)
from glip_export.evaluation.problems import BROKEN, BrokenEntryError, short

FREQUENCIES = ("r", "c", "f")  # rare, common, frequent


@dataclass(frozen=True)
class LvisImage(CocoImage):
    """A picture; what is neither among its objects nor in one of the lists is not annotated in it."""

    neg_category_ids: frozenset[int]  # known not to be in the picture
    not_exhaustive_category_ids: frozenset[int]  # of which not every object is annotated


@dataclass(frozen=True)
class LvisCategory(CocoCategory):
    """A category; frequency: r, c or f, by the number of pictures of the training set that it is in."""

    frequency: str = ""


@dataclass(frozen=True)
class LvisDataset(CocoDataset):
    """Pictures by rising id, their objects, and the categories, by rising id too.

    A picture's file is where "file_name" says or, as LVIS's own files have none, under the last two parts or the last
    part of "coco_url": both val2017/000000000139.jpg and 000000000139.jpg are looked for in the folder.
    """

    images: tuple[LvisImage, ...]
    categories: tuple[LvisCategory, ...]
    uncounted: ClassVar[str] = "without area"

    @classmethod
    def parse_image(cls, entry: object, folder: Path) -> LvisImage:
        """An entry of "images". Raises BrokenEntryError."""
        fields = entry_fields(entry)
        own = identifier(fields, "id")
        places = list(dict.fromkeys(_places(fields)))
        if not places:
            given = ", ".join(f"{key} is {short(fields.get(key))}" for key in ("coco_url", "file_name"))
            raise BrokenEntryError(BROKEN, f"{given}: neither names a file")
        for place in places:
            if not is_inside(place):
                raise BrokenEntryError(OUTSIDE, f"the file {short(place)} leaves the folder of the pictures")
        place = next((each for each in places if (folder / each).is_file()), places[0])
        lists = [_ids(fields, key) for key in ("neg_category_ids", "not_exhaustive_category_ids")]
        return LvisImage(own, place, folder / place, parse_size(fields), *lists)

    @classmethod
    def parse_category(cls, entry: object) -> LvisCategory:
        """An entry of "categories". Raises BrokenEntryError."""
        plain = parse_category(entry)
        frequency = entry_fields(entry).get("frequency")
        if frequency not in FREQUENCIES:
            raise BrokenEntryError(BROKEN, f"frequency is {short(frequency)}, not r, c or f")
        return LvisCategory(plain.id, plain.name, plain.supercategory, frequency)

    @classmethod
    def in_label_order(cls, categories: Sequence[CocoCategory]) -> Sequence[CocoCategory]:
        """By rising id: the original's reader of LVIS sorts them, unlike its reader of COCO."""
        return sorted(categories, key=lambda category: category.id)

    @classmethod
    def select(
        cls, categories: Sequence[CocoCategory], annotated: set[int]
    ) -> tuple[Sequence[CocoCategory], tuple[str, ...]]:
        """Every category: the original's reader of LVIS knows no background."""
        return categories, ()

    def counts(self, item: CocoObject) -> bool:
        """See `CocoDataset`: LVIS knows no crowds, and drops what has no area."""
        return item.area > 0


def _places(fields: dict[str, object]) -> Iterator[str]:
    """Where the picture may be in the folder, the likeliest first."""
    name, url = fields.get("file_name"), fields.get("coco_url")
    if isinstance(name, str) and name:
        yield name
        yield from _ends(name)
    if isinstance(url, str):
        try:
            yield from _ends(urlsplit(url).path)
        except ValueError as error:
            raise BrokenEntryError(BROKEN, f"coco_url is {short(url)}, not an address") from error


def _ends(path: str) -> Iterator[str]:
    parts = [part for part in PurePosixPath(path).parts if part != "/"]
    if parts:
        yield "/".join(parts[-2:])
        yield parts[-1]


def _ids(fields: dict[str, object], key: str) -> frozenset[int]:
    given = fields.get(key)
    if not isinstance(given, list) or not all(isinstance(each, int) for each in given):
        raise BrokenEntryError(BROKEN, f"{key} is {short(given)}, not a list of category ids as LVIS's files have")
    return frozenset(given)
