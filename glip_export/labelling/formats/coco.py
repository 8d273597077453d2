"""COCO: annotations as pycocotools reads them, with the score of each beside its box."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from glip_export.bundle.files import atomic_text
from glip_export.labelling.formats.conversion import Conversion, as_json
from glip_export.labelling.formats.folder import made_folder
from glip_export.labelling.places import is_url, split_options
from glip_export.labelling.shards import Labelled
from glip_export.labelling.sources.columns import carried_name

FOLDER = "coco"
_OWN = ("id", "file_name", "width", "height", "path")  # of an image
WHOLE = "annotations.json"  # without a split


def write_coco(conversion: Conversion) -> list[Path]:
    """Writes coco/annotations.json, or coco/instances_train.json and instances_val.json; returns them.

    Pictures with an error are left out. An image's id is its place in the source, from 1, whatever the split; its
    `file_name` is its source, `path` its file where that is called otherwise (escaped, or twice in a list), and the
    source's other columns stand beside them where JSON can say them.
    """
    names = {split: f"instances_{split}.json" if split else WHOLE for split in conversion.splits}
    folder = conversion.output / FOLDER
    with made_folder(folder, FOLDER) as temporary, ExitStack() as stack:
        writes = {split: stack.enter_context(atomic_text(temporary / name)) for split, name in names.items()}
        for write in writes.values():
            write('{"info": ' + json.dumps(_info(conversion)) + ',\n"licenses": [],\n"categories": ')
            write(json.dumps([{"id": place, "name": name} for place, name in enumerate(conversion.names, start=1)]))
        _write_list(conversion, writes, "images", _images)
        _write_list(conversion, writes, "annotations", _annotations)
        for write in writes.values():
            write("}\n")
    return [folder / name for name in names.values()]


def _write_list(
    conversion: Conversion,
    writes: dict[str, Callable[[str], None]],
    key: str,
    entries: Callable[[int, Labelled], Iterator[dict[str, Any]]],
) -> None:
    """One of the document's lists, from one reading of the shards; ids that entries lack are counted from 1."""
    separators = dict.fromkeys(writes, "\n")
    count = 0
    for write in writes.values():
        write(f',\n"{key}": [')
    for place, labelled in enumerate(conversion.labelled(), start=1):
        if labelled.answer.error:
            continue
        split = conversion.split(labelled.source)
        for entry in entries(place, labelled):
            count += 1
            writes[split](separators[split] + json.dumps({"id": count, **entry}))
            separators[split] = ",\n"
    for write in writes.values():
        write("\n]")


def _images(place: int, labelled: Labelled) -> Iterator[dict[str, Any]]:
    own = {
        "id": place,
        "file_name": labelled.source,
        "width": labelled.answer.width,
        "height": labelled.answer.height,
    }
    where = labelled.where
    if where.offset is None and where.column is None and not _ends_with(where.path, labelled.source):
        own["path"] = where.path
    carried = as_json(labelled.carried)
    yield own | {carried_name(name, _OWN, labelled.carried): value for name, value in carried.items()}


def _ends_with(path: str, source: str) -> bool:
    """Whether a picture is found by what the source calls it, below some folder."""
    bare = split_options(path)[0] if is_url(path) else path.replace(os.sep, "/")
    return bare == source or path == source or bare.endswith(f"/{source}")


def _annotations(place: int, labelled: Labelled) -> Iterator[dict[str, Any]]:
    answer = labelled.answer
    for label, score, (x1, y1, x2, y2) in zip(
        answer.labels.tolist(), answer.scores.tolist(), answer.boxes.tolist(), strict=True
    ):
        width, height = x2 - x1 + 1, y2 - y1 + 1  # as the original's results, see Detections.to_coco
        yield {
            "image_id": place,
            "category_id": label + 1,
            "bbox": [round(side, 3) for side in (x1, y1, width, height)],
            "area": round(width * height, 3),
            "iscrowd": 0,
            "segmentation": [],  # without the key pycocotools' showAnns refuses
            "score": round(score, 6),
        }


def _info(conversion: Conversion) -> dict[str, Any]:
    thresholds = dict(zip(conversion.names, conversion.thresholds.values, strict=True))
    return {"description": "labelled by glip-export", **conversion.about, "thresholds": thresholds}
