"""Files of what was found for sentences: a JSON line each, read and written line by line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from glip_export.bundle.files import atomic_text
from glip_export.errors import GlipExportError
from glip_export.evaluation.entries import entry_fields, finite, identifier, with_whole_ids
from glip_export.evaluation.flickr30k.grounding import BoxesOfPhrase, Grounded, by_score
from glip_export.evaluation.problems import BROKEN, BrokenEntryError, ProblemList, refuse, short

MOST_BYTES = 1 << 26  # of a line: 100 phrases with 100 boxes each take 1 MB
KIND = "detections"


def read_grounded(
    path: Path,
    problems: ProblemList,
    strict: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Grounded]:
    """The sentences of a file, a line each: {"image_id", "sentence_id", "boxes": [[[x1, y1, x2, y2, score], ...]]}.

    A list of boxes a phrase; they are sorted by score. A line {"image_id", "sentence_id", "left_out": true} is of a
    sentence that the run that wrote the file left out. A line that is broken is left out, as is a box that is (a score
    that is NaN among them), and told in `problems`; other keys are not read. strict: the first of them is an error.
    progress: told the bytes read so far. Raises GlipExportError for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = done = 0
            while line := file.readline(MOST_BYTES):
                number, done = number + 1, done + len(line)
                progress(done)
                if len(line) == MOST_BYTES and not line.endswith(b"\n"):
                    raise GlipExportError(f"line {number} of {path} has more than {MOST_BYTES >> 20} MB")
                if not line.strip():
                    continue
                where = f"{KIND} line {number}"
                try:
                    found = _parse(line, where, problems)
                except BrokenEntryError as error:
                    problems.add(f"{KIND}: {error.kind}", f"{where}: {error}")
                    found = None
                if strict and (known := problems.listed()):
                    raise refuse(known[0], path)
                if found is not None:
                    yield found
    except OSError as error:
        raise GlipExportError(f"cannot read {path}: {error.strerror or error}") from error


def write_grounded(target: Path, sentences: Iterable[Grounded]) -> None:
    """A file that `read_grounded` reads, whole or not at all. Raises GlipExportError where it cannot be written."""
    with atomic_text(target) as write:
        for found in sentences:
            rest = {"left_out": True} if found.left_out else {"boxes": [each.tolist() for each in found.boxes]}
            write(json.dumps({"image_id": found.image_id, "sentence_id": found.sentence_id, **rest}) + "\n")


def _parse(line: bytes, where: str, problems: ProblemList) -> Grounded:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BrokenEntryError(BROKEN, f"it is not JSON ({error})") from error
    fields = with_whole_ids(entry_fields(entry), "image_id", "sentence_id")
    image_id, sentence_id = identifier(fields, "image_id"), identifier(fields, "sentence_id")
    if fields.get("left_out") is True and "boxes" not in fields:
        return Grounded(image_id, sentence_id, (), left_out=True)
    given = fields.get("boxes")
    if not isinstance(given, list) or not all(isinstance(boxes, list) for boxes in given):
        raise BrokenEntryError(BROKEN, f"boxes is {short(given)}, not a list with a list of boxes for each phrase")
    return Grounded(image_id, sentence_id, [by_score(_boxes(boxes, where, problems)) for boxes in given])


def _boxes(given: list[object], where: str, problems: ProblemList) -> BoxesOfPhrase:
    kept = []
    for box in given:
        sides = [finite(side) for side in box] if isinstance(box, list) else []
        if len(sides) == 5 and not any(map(math.isnan, sides)):
            kept.append(sides)
        else:
            problems.add(f"{KIND}: broken box", f"{where}: {short(box)} is not [x1, y1, x2, y2, score]")
    return np.array(kept, np.float64).reshape(-1, 5)
