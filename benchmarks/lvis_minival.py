"""How long and in how much memory LVIS minival is scored, on a set of its size that is drawn at random: no model runs.

python benchmarks/lvis_minival.py --a-picture 9300

Writes annotations (5 000 pictures, 1 203 names, each picture annotated for some of them) and a file of detections, as
many a picture as 31 captions of 300 give, around the objects and elsewhere; scores them by `glip-export eval lvis
--detections` in a process of its own, and says the seconds and the peak memory of that. 9 300 a picture are 8 GB on the
disk and 10 minutes of writing; they go afterwards, unless --keep is given.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from glip_export.bench.machine import describe_machine
from glip_export.bundle.files import atomic_write_text
from glip_export.evaluation.detections_file import detections_writer
from glip_export.evaluation.rows import Found

NAMES, SIDE = 1203, 640
FREQUENCIES = ("r",) * 337 + ("c",) * 461 + ("f",) * 405  # as many of each as LVIS v1 has
KINDS, MOST_OF_A_KIND, NEGATIVE, SLIGHT = 4, 6, 11, 0.08  # a picture's classes, objects of one, absent ones; of a side


def main() -> None:
    """Draws, writes, scores, prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--a-picture", type=int, default=9300, help="detections")
    parser.add_argument("--normal", action="store_true", help="score the 300 best a picture instead of 10 000 a class")
    parser.add_argument("--folder", type=Path, help="for the files; by default a temporary one")
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    parser.add_argument("--json", type=Path, help="for the figures")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lvis_minival-", dir=given.folder))
    try:
        figures = measure(folder, given.pictures, given.a_picture, given.normal)
    finally:
        if not given.keep:
            shutil.rmtree(folder)
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if given.json is not None:
        atomic_write_text(given.json, text)


def measure(folder: Path, pictures: int, a_picture: int, normal: bool) -> dict[str, Any]:
    """The figures of one set, whose files are written to `folder`."""
    rng = np.random.default_rng(0)
    dataset = draw_annotations(pictures, rng)
    annotations, detections, found = (folder / f"{name}.json" for name in ("annotations", "detections", "found"))
    annotations.write_text(json.dumps(dataset), encoding="utf-8")
    started = time.perf_counter()
    with detections_writer(detections, range(1, pictures + 1), range(1, NAMES + 1)) as write:
        for drawn in draw_detections(dataset, a_picture, rng):
            write(drawn)
    writing = time.perf_counter() - started
    command = [sys.executable, "-m", "glip_export.cli", "eval", "lvis", "--images", str(folder)]
    command += [
        "--annotations",
        str(annotations),
        "--detections",
        str(detections),
        "--json",
        str(folder / "found.json"),
    ]
    started = time.perf_counter()
    process = subprocess.Popen([*command, *(["--normal"] if normal else [])], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "pictures": pictures,
        "names": NAMES,
        "objects": len(dataset["annotations"]),
        "detections": pictures * a_picture,
        "file_gb": round(detections.stat().st_size / 1e9, 3),
        "writing_seconds": round(writing, 1),
        "mode": "normal" if normal else "fixed",
        "scoring_seconds": round(seconds, 1),
        "scoring_peak_mb": round(usage.ru_maxrss * 1024 / 1e6),
        "found": json.loads(found.read_text(encoding="utf-8"))["backends"][detections.name]["scores"],
        "machine": describe_machine(),
    }


def draw_annotations(pictures: int, rng: np.random.Generator) -> dict[str, list[dict[str, Any]]]:
    """An LVIS annotation file; pictures and categories are numbered from 1."""
    chance = rng.permutation(1 / np.arange(1, NAMES + 1))  # a few names are in many pictures
    chance /= chance.sum()
    images, annotations = [], []
    for image in range(1, pictures + 1):
        kinds = rng.choice(NAMES, KINDS + NEGATIVE, replace=False, p=chance) + 1
        images.append(
            {
                "id": image,
                "width": SIDE,
                "height": SIDE,
                "coco_url": f"http://images.cocodataset.org/val2017/{image:012}.jpg",
                "neg_category_ids": kinds[KINDS:].tolist(),
                "not_exhaustive_category_ids": kinds[:1].tolist() if rng.random() < 0.2 else [],
            }
        )
        for kind in kinds[:KINDS].tolist():
            for box in _boxes(int(rng.integers(1, MOST_OF_A_KIND)), rng).tolist():
                own = {"id": len(annotations) + 1, "image_id": image, "category_id": kind}
                annotations.append({**own, "bbox": box, "area": 0.7 * box[2] * box[3]})
    categories = [
        {"id": number, "name": f"name_{number}", "frequency": frequency}
        for number, frequency in enumerate(FREQUENCIES, start=1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def draw_detections(
    dataset: dict[str, list[dict[str, Any]]], a_picture: int, rng: np.random.Generator
) -> Iterator[Found]:
    """A block a picture: three near each object, and elsewhere any names with lower scores; float32."""
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in dataset["images"]}
    for each in dataset["annotations"]:
        objects[each["image_id"]].append(each)
    for item, own in enumerate(objects.values()):
        near = own * 3
        labels = np.concatenate([[each["category_id"] - 1 for each in near], rng.integers(0, NAMES, a_picture)])
        boxes = np.array([each["bbox"] for each in near])
        boxes = np.concatenate(
            [boxes + rng.normal(0, SLIGHT, boxes.shape) * boxes[:, [2, 3, 2, 3]], _boxes(a_picture, rng)]
        )
        scores = np.concatenate([rng.beta(2, 2, len(near)), rng.beta(1, 12, a_picture)])
        best = np.argsort(-scores)[:a_picture]
        yield Found(
            np.full(len(best), item),
            labels[best].astype(np.int64),
            scores[best].astype(np.float32).astype(np.float64),
            boxes[best].astype(np.float32).astype(np.float64),
        )


def _boxes(count: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(count, 4) x, y, width, height."""
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    return np.concatenate([rng.uniform(0, SIDE - sides), sides], axis=1).round(2)


if __name__ == "__main__":
    main()
