"""The pictures that a run could not read: kept beside what it found, which is then scored without them too."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from glip_export.bundle.files import atomic_write_text
from glip_export.errors import GlipExportError
from glip_export.evaluation.entries import ImageId
from glip_export.evaluation.problems import ProblemList, short

LEFT_OUT = "left_out.json"


def left_out_file(detections: Path) -> Path:
    """Where the ids of the pictures are that the run left out that wrote `detections`."""
    return detections.with_name(LEFT_OUT)


def write_left_out(detections: Path, ids: Sequence[ImageId]) -> None:
    """The file for a run's detections, a JSON list; without any there is none, and an earlier run's is removed."""
    target = left_out_file(detections)
    if ids:
        atomic_write_text(target, json.dumps(list(ids)) + "\n")
        return
    try:
        target.unlink(missing_ok=True)
    except OSError as error:
        raise GlipExportError(f"cannot remove {target}: {error.strerror or error}") from error


def read_left_out(detections: Path, known: Collection[ImageId], problems: ProblemList) -> frozenset[ImageId]:
    """The ids in the file beside `detections`, if there is one; problems: told of those that are not `known`.

    Raises GlipExportError for a file that cannot be read or is no list of ids.
    """
    path = left_out_file(detections)
    if not path.exists():
        return frozenset()
    what = f"{path}, which names the pictures that the run of {detections.name} left out,"
    try:
        ids = json.loads(path.read_bytes())
    except OSError as error:
        raise GlipExportError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise GlipExportError(f"{what} is not JSON ({error}): remove it to count them") from error
    if not isinstance(ids, list) or not all(type(each) in (int, str) for each in ids):
        raise GlipExportError(f"{what} is no list of pictures' ids: remove it to count them")
    for each in ids:
        if each not in known:
            problems.add(f"{LEFT_OUT}: unknown picture", f"it has {short(each)}, which is no picture's id")
    return frozenset(each for each in ids if each in known)


def left_out_note(count: int) -> str:
    """What the user is told."""
    return f"{count} picture(s) are not counted: the run left them out, as {LEFT_OUT} beside the detections says"
