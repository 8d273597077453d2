"""The entries of a COCO annotation file, each checked by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from glip_export.evaluation.problems import BROKEN, BrokenEntryError, short

ImageId = int | str  # pycocotools takes both
DEGENERATE = "degenerate box"
OUTSIDE = "path outside the folder"


@dataclass(frozen=True)
class CocoImage:
    """A picture of a data set."""

    id: ImageId
    file_name: str
    path: Path
    size: tuple[int, int] | None  # h, w that its annotations are in; None where the file does not say


@dataclass(frozen=True)
class CocoCategory:
    """A category of a data set."""

    id: int
    name: str
    supercategory: str = ""


@dataclass(frozen=True)
class CocoObject:
    """An annotated object; box as x, y, width, height in pixels of the annotated size, area in square pixels."""

    image_id: ImageId
    category_id: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool


def parse_image(entry: object, folder: Path) -> CocoImage:
    """An entry of "images". Raises BrokenEntryError."""
    fields = entry_fields(entry)
    file_name = fields.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise BrokenEntryError(BROKEN, f"file_name is {short(file_name)}, not a text")
    if not is_inside(file_name):
        raise BrokenEntryError(OUTSIDE, f"file_name {short(file_name)} leaves the folder of the pictures")
    return CocoImage(identifier(fields, "id"), file_name, folder / file_name, parse_size(fields))


def parse_category(entry: object) -> CocoCategory:
    """An entry of "categories". Raises BrokenEntryError."""
    fields = entry_fields(entry)
    name = fields.get("name")
    if not isinstance(name, str) or not name.strip():
        raise BrokenEntryError(BROKEN, f"name is {short(name)}, not a text")
    above = fields.get("supercategory")
    return CocoCategory(whole(fields, "id"), name, above if isinstance(above, str) else "")


def parse_object(entry: object) -> tuple[ImageId, CocoObject]:
    """An entry of "annotations" and its own id. Raises BrokenEntryError.

    Without "area" it is the box's, without "iscrowd" it is no crowd: many sets have neither.
    """
    fields = entry_fields(entry)
    own = identifier(fields, "id")
    image_id, category_id = identifier(fields, "image_id"), whole(fields, "category_id")
    given = fields.get("bbox")
    if not isinstance(given, list) or len(given) != 4:
        raise BrokenEntryError(BROKEN, f"bbox is {short(given)}, not [x, y, width, height]")
    box = [finite(side) for side in given]
    if any(math.isnan(side) for side in box) or min(box[2:]) <= 0:
        raise BrokenEntryError(DEGENERATE, f"bbox is {short(given)}: finite numbers, width and height above 0")
    area = finite(fields["area"]) if "area" in fields else box[2] * box[3]
    if not area >= 0:
        raise BrokenEntryError(BROKEN, f"area is {short(fields['area'])}, not a number of pixels")
    crowd = fields.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise BrokenEntryError(BROKEN, f"iscrowd is {short(crowd)}, not 0 or 1")
    return own, CocoObject(image_id, category_id, (box[0], box[1], box[2], box[3]), area, bool(crowd))


def rising(image_id: ImageId) -> tuple[bool, ImageId]:
    """What ids are sorted by: numbers first, then texts."""
    return isinstance(image_id, str), image_id


def identifier(fields: dict[str, Any], key: str) -> ImageId:
    """The id of a picture or an annotation: a whole number or a text. Raises BrokenEntryError."""
    value = fields.get(key)
    return value if isinstance(value, str) and value else whole(fields, key)


def whole(fields: dict[str, Any], key: str) -> int:
    """A whole number of an entry. Raises BrokenEntryError."""
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        what = f"{key} is {short(value)}, not a whole number" if key in fields else f"it has no {key}"
        raise BrokenEntryError(BROKEN, what)
    return value


def with_whole_ids(fields: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The entry with ids such as 1.0, as pandas writes them, as whole numbers; others stay as they are."""
    given = [(key, fields.get(key)) for key in keys]
    return {**fields, **{key: int(value) for key, value in given if isinstance(value, float) and value.is_integer()}}


def entry_fields(entry: object) -> dict[str, Any]:
    """An entry as the object that it must be. Raises BrokenEntryError."""
    if not isinstance(entry, dict):
        raise BrokenEntryError(BROKEN, f"{short(entry)} is not an object")
    return entry


def parse_size(fields: dict[str, Any]) -> tuple[int, int] | None:
    """The height and width of an entry of "images"; None where it has neither. Raises BrokenEntryError."""
    if "height" not in fields and "width" not in fields:
        return None
    height, width = whole(fields, "height"), whole(fields, "width")
    if min(height, width) < 1:
        raise BrokenEntryError(BROKEN, f"height {height} and width {width} are no picture's")
    return height, width


def finite(value: object) -> float:
    """As a float; NaN for what is no finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def is_inside(file_name: str) -> bool:
    """Whether a path stays below the folder it is joined to, on any system.

    By its words alone: links in the user's own folder are the user's.
    """
    windows = PureWindowsPath(file_name)
    absolute = PurePosixPath(file_name).is_absolute() or windows.drive or windows.root
    return not absolute and ".." not in windows.parts and "\0" not in file_name
