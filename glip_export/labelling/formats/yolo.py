"""YOLO: a folder that Ultralytics trains on, with a text file of boxes for each picture."""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from glip_export.bundle.files import atomic_text
from glip_export.errors import GlipExportWarning, ImageError
from glip_export.image import picture_suffixes
from glip_export.labelling.formats.conversion import Conversion
from glip_export.labelling.formats.folder import made_folder
from glip_export.labelling.formats.picture_files import in_folder, place_picture
from glip_export.labelling.formats.picture_names import PictureNames
from glip_export.labelling.items import Answer
from glip_export.labelling.shards import Labelled, read_shards
from glip_export.labelling.split import TRAIN, VAL

FOLDER = "yolo"
DATA, PICTURES = "data.yaml", "pictures.jsonl"
_THREADS = 8  # which mostly wait for file systems
_WAITING = 256  # pictures in the threads' queue


def write_yolo(conversion: Conversion) -> list[Path]:
    """Writes yolo/data.yaml, yolo/images/{train,val}/, yolo/labels/{train,val}/ and yolo/pictures.jsonl.

    Returns the paths of data.yaml and of pictures.jsonl, which says what each source is called there. Pictures with an
    error are left out; so are, with a warning, those that cannot be read any more. Without a split `val` is `train`,
    for Ultralytics demands both.
    """
    folder = conversion.output / FOLDER
    names = PictureNames(each.source for each in read_shards(conversion.output) if not each.answer.error)
    # images: Ultralytics mends JPEGs there
    with made_folder(folder, FOLDER, changing="images") as temporary, atomic_text(temporary / PICTURES) as write:
        for kind in ("images", "labels"):
            for split in filter(None, (TRAIN, VAL if conversion.val else "")):
                (temporary / kind / split).mkdir(parents=True)
        counts = dict.fromkeys((TRAIN, VAL), 0)
        problems: list[str] = []
        left_out = 0
        for placed in _placed(temporary, conversion, names):
            write(json.dumps(placed.entry, ensure_ascii=False) + "\n")
            counts[placed.split] += not placed.problem
            left_out += bool(placed.problem)
            problems = problems or [placed.problem] * bool(placed.problem)
        (temporary / DATA).write_text(_data_yaml(conversion, bool(counts[VAL])), encoding="utf-8", newline="\n")
    if left_out:
        _warn(f"{left_out} picture(s) are not in {folder}: {problems[0]}{'; ...' if left_out > 1 else ''}")
    if conversion.val and counts[TRAIN] and not counts[VAL]:
        _warn(f"no picture of {counts[TRAIN]} validates: {folder / DATA} has those that train as val too")
    return [folder / DATA, folder / PICTURES]


@dataclass(frozen=True)
class _Placed:
    """A picture in the folder, or why it is not there."""

    split: str
    entry: dict[str, Any]
    problem: str = ""


def _placed(folder: Path, conversion: Conversion, names: PictureNames) -> Iterator[_Placed]:
    """Writes pictures and labels in threads; in the source's order."""
    waiting: deque[Future[_Placed]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for labelled in conversion.labelled():
                if labelled.answer.error:
                    continue
                split = conversion.split(labelled.source) or TRAIN
                waiting.append(pool.submit(_write, folder, conversion, labelled, split, names.of(labelled.source)))
                if len(waiting) > _WAITING:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write(folder: Path, conversion: Conversion, labelled: Labelled, split: str, stem: str) -> _Placed:
    label = folder / "labels" / split / f"{stem}.txt"
    try:
        image = _write_picture(folder / "images" / split / stem, conversion, labelled)
    except ImageError as error:
        return _Placed(split, {"source": labelled.source, "left_out": str(error)}, str(error))
    text = label_text(labelled.answer)
    in_folder(label, lambda: _write_new(label, text))
    placed = {"image": image.relative_to(folder).as_posix(), "label": label.relative_to(folder).as_posix()}
    return _Placed(split, {"source": labelled.source, **placed})


def _write_picture(stem: Path, conversion: Conversion, labelled: Labelled) -> Path:
    if conversion.pictures != "none":
        return place_picture(labelled, stem, conversion.pictures)
    suffix = PurePosixPath(labelled.source).suffix
    return stem.with_name(stem.name + (suffix if suffix.lower() in picture_suffixes() else ".jpg"))


def _write_new(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)


def label_text(answer: Answer) -> str:
    """A line a box: label, then its centre, width and height as shares of the picture's, clipped to it."""
    # Corners are taken as points between pixels, with no pixel added. 8 digits: 0.0005 pixels of 50 000.
    shares = answer.boxes.astype(np.float64) / ([answer.width, answer.height] * 2 if len(answer.boxes) else 1)
    x1, y1, x2, y2 = np.clip(shares, 0, 1).T
    columns = zip(answer.labels, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, strict=True)
    return "".join(f"{label} {cx:.8f} {cy:.8f} {w:.8f} {h:.8f}\n" for label, cx, cy, w, h in columns)


def _data_yaml(conversion: Conversion, has_val: bool) -> str:
    """Without `path`: the folder is then where this file is, wherever it is moved."""
    lines = [
        "# labelled by glip-export; pictures.jsonl says which picture is which",
        f"train: images/{TRAIN}",
        f"val: images/{VAL if has_val else TRAIN}" + ("" if has_val else "  # no picture was set apart to validate"),
        f"nc: {len(conversion.names)}",
        "names:",
        *(f"  {place}: {_yaml_text(name)}" for place, name in enumerate(conversion.names)),
    ]
    return "\n".join(lines) + "\n"


def _yaml_text(text: str) -> str:
    """In double quotes, as JSON, and with nothing that YAML readers refuse."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted)


def _warn(message: str) -> None:
    warnings.warn(message, GlipExportWarning, stacklevel=3)
