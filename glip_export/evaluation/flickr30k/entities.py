"""The folder of Flickr30k Entities: which phrases of a subset's sentences have boxes, and which."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glip_export.errors import GlipExportError
from glip_export.evaluation.entries import ImageId
from glip_export.evaluation.flickr30k.entity_files import read_boxes, read_sentences
from glip_export.evaluation.problems import BROKEN, TWICE, BrokenEntryError, Problem, short

SUBSETS = ("test", "val")
PICTURE_ID = re.compile(r"[\w-][\w.-]*")  # names two files, so it is no path

Boxes = NDArray[np.float64]


class Target(NamedTuple):
    """A phrase that is looked for: its types, and the boxes (n, 4) xyxy of which one must be met."""

    types: tuple[str, ...]
    boxes: Boxes


Truth = Mapping[str, tuple[Target, ...]]  # of the sentences with a phrase that has a box, by `sentence_key`


@dataclass(frozen=True)
class Entities:
    """The sentences of a subset's pictures, in their order, with their phrases."""

    folder: Path
    subset: str
    truth: Truth
    problems: tuple[Problem, ...]  # pictures whose files are missing or broken: they are left out
    files: tuple[Path, ...]  # that were read or would have been

    @classmethod
    def read(cls, folder: Path | str, subset: str, merged: bool = False) -> Entities:
        """Reads test.txt or val.txt and, of each picture that it names, Sentences/ID.txt and Annotations/ID.xml.

        merged: the boxes of an id become the one that encloses them (GLIP: TEST.FLICKR_GT_TYPE merged). Phrases whose
        id has no box, and sentences without another phrase, are not scored. Raises GlipExportError where the folder is
        none of Flickr30k Entities or nothing of the subset can be read.
        """
        folder = Path(folder)
        truth: dict[str, tuple[Target, ...]] = {}
        problems: list[Problem] = []
        ids: set[str] = set()
        files = [folder / f"{subset}.txt"]
        for picture in _picture_ids(folder, subset):
            try:
                if not PICTURE_ID.fullmatch(picture):
                    raise BrokenEntryError(BROKEN, f"{subset}.txt names {short(picture)}, which is no picture's id")
                if picture in ids:
                    raise BrokenEntryError(TWICE, f"{subset}.txt names {picture} again")
                ids.add(picture)
                annotations, sentences = _files(folder, picture)
                files += [annotations, sentences]
                truth |= _targets(picture, annotations, sentences, merged)
            except BrokenEntryError as error:
                problems.append(Problem(f"entities: {error.kind}", f"entities: {error}"))
        if not truth:
            reason = f": {problems[0].text}" if problems else ""
            raise GlipExportError(f"{folder} has no sentence of subset {subset} with a phrase that has a box{reason}")
        return cls(folder, subset, truth, tuple(problems), tuple(files))


def sentence_key(picture: ImageId, sentence: ImageId) -> str:
    """What sentences are known by: numbers and texts alike, as in the original."""
    return f"{picture}_{sentence}"


def picture_of(key: str) -> str:
    """A sentence's picture."""
    return key.rsplit("_", 1)[0]


def named(key: str) -> str:
    """A sentence for a person to read."""
    picture, sentence = key.rsplit("_", 1)
    return f"sentence {sentence} of picture {picture}"


def subset_of(folder: Path, annotations: Path, asked: str | None = None) -> str:
    """The subset that is meant: as asked, or as the annotation file is named, or the only one the folder lists.

    Raises GlipExportError where none is.
    """
    if asked is not None:
        if asked not in SUBSETS:
            raise GlipExportError(f"--subset is {' or '.join(SUBSETS)}, not {asked!r}")
        return asked
    named = [subset for subset in SUBSETS if subset in annotations.stem.lower()]
    listed = [subset for subset in SUBSETS if (folder / f"{subset}.txt").is_file()]
    for found in (named, listed):
        if len(found) == 1:
            return found[0]
    raise GlipExportError(f"{annotations.name} does not tell which subset it is of: give --subset test or --subset val")


def _files(folder: Path, picture: str) -> tuple[Path, Path]:
    return folder / "Annotations" / f"{picture}.xml", folder / "Sentences" / f"{picture}.txt"


def _targets(picture: str, annotations: Path, sentences: Path, merged: bool) -> dict[str, tuple[Target, ...]]:
    boxes = read_boxes(annotations)
    if merged:
        boxes = {own: np.array([[*each[:, :2].min(0), *each[:, 2:].max(0)]]) for own, each in boxes.items()}
    found = {}
    for place, phrases in enumerate(read_sentences(sentences)):
        targets = tuple(Target(phrase.types, boxes[phrase.id]) for phrase in phrases if phrase.id in boxes)
        if targets:
            found[sentence_key(picture, place)] = targets
    return found


def _picture_ids(folder: Path, subset: str) -> list[str]:
    path = folder / f"{subset}.txt"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GlipExportError(
            f"cannot read {path}: {reason}; --entities is the folder with {subset}.txt, Annotations and Sentences"
        ) from error
    return [line.strip() for line in lines if line.strip()]
