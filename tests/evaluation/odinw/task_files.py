"""A small ODinW data set as a task's YAML knows it: pictures of one colour and boxes on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from answers import write_set

BOX = (10, 20, 100, 100)  # x, y, width, height of an object of a picture of 200 x 200
LISTS = ("OVERRIDE_CATEGORY", "CAPTION_PROMPT")


def write_task(
    root: Path,
    categories: Sequence[tuple[int, str]],
    objects: Sequence[tuple[int, int, Sequence[float]]],
    datasets: dict[str, Any] | None = None,
    name: str = "toys",
    pictures: int = 1,
    **sections: dict[str, Any],
) -> Path:
    """Writes root/odinw/<name>/valid and root/<name>.yaml, and returns the latter.

    categories: (id, name) of the annotation file; objects: (picture, category id, xywh); datasets: keys of the YAML's
    DATASETS, lists as Python's literals in a text.
    """
    valid = root / "odinw" / name / "valid"
    valid.mkdir(parents=True)
    sizes = dict.fromkeys(range(1, pictures + 1), (200, 200))
    annotations, images = write_set(valid, sizes, objects, categories)
    annotations.rename(valid / "annotations_without_background.json")
    for picture in images.iterdir():
        shutil.move(picture, valid / picture.name)
    place = f"odinw/{name}/valid"
    given = {
        "REGISTER": {"val": {"img_dir": place, "ann_file": f"{place}/annotations_without_background.json"}},
        "TEST": '("val",)',
        **{key: repr(value) if key in LISTS else value for key, value in (datasets or {}).items()},
    }
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"DATASETS": given, **sections}))
    return path


def named(*categories: tuple[int, str]) -> list[dict[str, Any]]:
    """OVERRIDE_CATEGORY of those."""
    return [{"id": number, "name": name, "supercategory": "toys"} for number, name in categories]


def change(annotations: Path, **lists: Any) -> None:
    """Replaces lists of an annotation file."""
    annotations.write_text(json.dumps({**json.loads(annotations.read_text()), **lists}))
