"""The demo model's scenes as ODinW's data sets come: their files below a folder, and a task YAML each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Ids with a gap, in no order, as a task's list has them; the words are CAPTION_PROMPT's.
TASKS: dict[str, tuple[tuple[tuple[int, str], ...], tuple[tuple[str, str, str], ...]]] = {
    "Animals": (((7, "dog"), (2, "cat"), (3, "bird"), (9, "fish"), (5, "horse")), ()),
    "Vehicles": (
        ((1, "automobile"), (4, "airplane"), (2, "spaceship")),
        (("a ", "car", " on wheels"), ("", "airplane", " , which flies"), ("a small ", "rocket", "")),
    ),
}
KIND_OF = {"automobile": "car", "spaceship": "rocket"}  # what a scene calls it


def odinw_form(scenes: Path, root: Path, sizes: tuple[int, int] | None = None) -> tuple[Path, ...]:
    """Writes two data sets below root/odinw, each with "valid" and "test", and returns their task YAMLs.

    scenes: the folder that `write_scenes` wrote. sizes: INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST of the YAMLs. The second
    is asked by other words than its categories' names (CAPTION_PROMPT). "test" is every second picture of "valid".
    """
    content = json.loads((scenes / "annotations.json").read_text())
    tasks = []
    for name, (categories, words) in TASKS.items():
        for split, images in (("valid", content["images"]), ("test", content["images"][::2])):
            folder = root / "odinw" / name / split
            folder.mkdir(parents=True)
            for image in images:
                shutil.copyfile(scenes / "images" / image["file_name"], folder / image["file_name"])
            found = _of_categories(content["annotations"], {image["id"] for image in images}, categories)
            listed = [{"id": number, "name": name, "supercategory": "toys"} for number, name in sorted(categories)]
            (folder / "annotations_without_background.json").write_text(
                json.dumps({"images": images, "annotations": found, "categories": listed})
            )
        tasks.append(root / f"{name}.yaml")
        tasks[-1].write_text(_task_yaml(name, categories, words, sizes))
    return tuple(tasks)


def _of_categories(
    annotations: Sequence[dict[str, Any]], images: set[int], categories: Sequence[tuple[int, str]]
) -> list[dict[str, Any]]:
    ids = {KIND_OF.get(name, name): number for number, name in categories}
    return [
        {**entry, "category_id": ids[entry["kind"]]}
        for entry in annotations
        if entry["image_id"] in images and entry["kind"] in ids
    ]


def _task_yaml(
    name: str,
    categories: Sequence[tuple[int, str]],
    words: Sequence[tuple[str, str, str]],
    sizes: tuple[int, int] | None,
) -> str:
    """As ODinW's own are: lists as Python's literals in folded texts, keys that are training's."""
    override = [{"id": number, "name": each, "supercategory": "toys"} for number, each in categories]
    prompt = [dict(zip(("prefix", "name", "suffix"), each, strict=True)) for each in words]
    lines = ["DATALOADER: {ASPECT_RATIO_GROUPING: false, SIZE_DIVISIBILITY: 32}", "DATASETS:"]
    if prompt:
        lines.append(f"  CAPTION_PROMPT: '{json.dumps(prompt)[:-1]}, ]'")
    lines += ["  GENERAL_COPY: 16", f"  OVERRIDE_CATEGORY: '{json.dumps(override)}'"]
    lines += ["  PREDEFINED_TEXT: odinw/pothole/category_description.json", "  REGISTER:"]
    for split, place in (("test", "test"), ("train", "train"), ("train_10_3", "train"), ("val", "valid")):
        file = f"fewshot_{split}.json" if "_" in split else "annotations_without_background.json"
        lines.append(f"    {split}: {{ann_file: odinw/{name}/{place}/{file}, img_dir: odinw/{name}/{place}}}")
    lines += ['  TEST: ("val",)', '  TRAIN: ("train",)']
    if sizes is not None:
        lines.append(f"INPUT: {{MAX_SIZE_TEST: {sizes[1]}, MAX_SIZE_TRAIN: 1333, MIN_SIZE_TEST: {sizes[0]}}}")
    classes = f"{{NUM_CLASSES: {len(categories) + 1}}}"
    lines += ["MODEL:", *(f"  {head}: {classes}" for head in ("ATSS", "DYHEAD", "FCOS", "ROI_BOX_HEAD"))]
    lines += ["SOLVER: {CHECKPOINT_PERIOD: 100, MAX_EPOCH: 12, WARMUP_ITERS: 0}", "TEST: {IMS_PER_BATCH: 8}"]
    return "\n".join(lines) + "\n"
