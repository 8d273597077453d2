"""Files of detections in COCO's results format, of any size: read and written block by block."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from glip_export.bundle.files import atomic_text
from glip_export.errors import GlipExportError
from glip_export.evaluation.dataset import NOT_ASKED, Places
from glip_export.evaluation.entries import ImageId, entry_fields, finite, identifier, whole, with_whole_ids
from glip_export.evaluation.json_entries import json_entries
from glip_export.evaluation.problems import BROKEN, BrokenEntryError, ProblemList, refuse, short
from glip_export.evaluation.rows import Found

WRITTEN_AT_ONCE = 10_000
KIND = "detection"  # what problems' kinds begin with
KEYS = ("image_id", "category_id", "score", "bbox")


def read_detections(
    path: Path,
    places: Places,
    problems: ProblemList,
    strict: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Found]:
    """The detections of a file, a JSON list of {image_id, category_id, bbox: [x, y, width, height], score}.

    Entries that are broken (a score that is NaN among them), or of pictures or categories that the data set does not
    have, are left out and told in `problems`; other keys are not read. strict: the first of them is an error.
    progress: told the bytes read so far. Raises GlipExportError for a file that cannot be read or is no such list, and
    for one with entries of which none can be used: it is of another data set. An empty list is one of no detections.
    """
    before = usable = 0
    for entries in json_entries(path, progress):
        block = _block_at_once(entries, places)
        if block is None:
            block = _block_one_by_one(entries, places, problems, before)
            if strict and (known := problems.listed()):
                raise refuse(known[0], path)
        before, usable = before + len(entries), usable + len(block.item)
        asked = (block.item != NOT_ASKED) & (block.label != NOT_ASKED)
        yield block if asked.all() else block.part(asked)
    if before and not usable:
        first = next(each.text for each in problems.listed() if each.kind.startswith(KIND))
        raise GlipExportError(f"{path} has {before} entries, none of which is a detection of this data set: {first}")


def _block_at_once(entries: Sequence[Any], places: Places) -> Found | None:
    """The block of entries that are all in order; None where one is not."""
    try:
        image_ids, category_ids, scores, boxes = ([entry[key] for entry in entries] for key in KEYS)
        if set(map(len, boxes)) - {4} or set(map(type, boxes)) - {list}:
            return None
        sides = list(chain.from_iterable(boxes))
        if {*map(type, scores), *map(type, sides)} - {int, float}:
            return None
        if {*map(type, image_ids)} - {int, float, str} or {*map(type, category_ids)} - {int, float}:
            return None
        found = Found(
            np.array([places.items[each] for each in image_ids], np.int64),  # 1.0 is found as 1 is
            np.array([places.labels[each] for each in category_ids], np.int64),
            np.array(scores, np.float64),
            np.array(sides, np.float64).reshape(-1, 4),
        )
    except (KeyError, TypeError, OverflowError):
        return None
    return found if np.isfinite(found.score).all() and np.isfinite(found.box).all() else None


def _block_one_by_one(entries: Sequence[Any], places: Places, problems: ProblemList, before: int) -> Found:
    rows: list[tuple[int, int, float, list[float]]] = []
    for number, entry in enumerate(entries, start=before + 1):
        try:
            rows.append(_parse(entry, places))
        except BrokenEntryError as error:
            problems.add(f"{KIND}: {error.kind}", f"detection entry {number}: {error}")
    items, labels, scores, boxes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Found(
        np.array(items, np.int64),
        np.array(labels, np.int64),
        np.array(scores, np.float64),
        np.array(boxes, np.float64).reshape(-1, 4),
    )


def _parse(entry: object, places: Places) -> tuple[int, int, float, list[float]]:
    fields = with_whole_ids(entry_fields(entry), "image_id", "category_id")
    image_id, category_id = identifier(fields, "image_id"), whole(fields, "category_id")
    box, score = fields.get("bbox"), finite(fields.get("score"))
    sides = [finite(side) for side in box] if isinstance(box, list) and len(box) == 4 else [math.nan]
    if any(math.isnan(side) for side in sides):
        raise BrokenEntryError(BROKEN, f"bbox is {short(box)}, not [x, y, width, height]")
    if math.isnan(score):
        raise BrokenEntryError(BROKEN, f"score is {short(fields.get('score'))}, not a finite number")
    if image_id not in places.items:
        raise BrokenEntryError("unknown picture", f"image_id {short(image_id)} is no picture's")
    if category_id not in places.labels:
        raise BrokenEntryError("unknown category", f"category_id {category_id} is no category's")
    return places.items[image_id], places.labels[category_id], score, sides


@contextmanager
def detections_writer(
    target: Path, image_ids: Sequence[ImageId], category_ids: Sequence[int]
) -> Iterator[Callable[[Found], None]]:
    """What writes blocks to a file that takes its place at `target` when the block ends well, as `json.dumps` does.

    image_ids, category_ids: by the blocks' items and labels. Raises GlipExportError where it cannot be written.
    """
    with atomic_text(target) as write:
        separator = "["

        def add(block: Found) -> None:
            nonlocal separator
            for start in range(0, len(block.item), WRITTEN_AT_ONCE):
                part = block.part(slice(start, start + WRITTEN_AT_ONCE))
                write(separator + json.dumps(list(_entries(part, image_ids, category_ids)))[1:-1])
                separator = ", "

        yield add
        write("[]\n" if separator == "[" else "]\n")


def _entries(block: Found, image_ids: Sequence[ImageId], category_ids: Sequence[int]) -> Iterable[dict[str, Any]]:
    for item, label, score, box in zip(*(each.tolist() for each in block), strict=True):
        yield {"image_id": image_ids[item], "category_id": category_ids[label], "bbox": box, "score": score}
