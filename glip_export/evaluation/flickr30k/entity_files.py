"""The two files of a picture in Flickr30k Entities: its sentences with their phrases, and the phrases' boxes.

Read as the original's evaluator reads them. Both come from elsewhere: what is broken raises BrokenEntryError, and the
XML may not define entities, with which a small file grows without end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from glip_export.evaluation.problems import BROKEN, BrokenEntryError, short

MOST_BYTES = 1 << 20  # of a file; the data set's own take some thousands
BEGIN, END = "[/EN#", "]"


class Phrase(NamedTuple):
    """A phrase of a sentence."""

    id: str  # of what it names: phrases of all five sentences of a picture share it
    text: str
    types: tuple[str, ...]  # "people", "scene"; as often as they are written


def read_sentences(path: Path) -> tuple[tuple[Phrase, ...], ...]:
    """The phrases of each sentence, of a file with a line each: "[/EN#11/people A woman] leads [/EN#13/animals ...]".

    Empty lines are no sentences, and a phrase without an end is none, as in the original. Raises BrokenEntryError.
    """
    try:
        text = _read(path).decode()
    except UnicodeDecodeError as error:
        raise BrokenEntryError(BROKEN, f"{path} is no text in UTF-8 (byte {error.start + 1})") from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return tuple(tuple(_phrases(line, f"{path}, line {place}")) for place, line in enumerate(lines, start=1) if line)


def read_boxes(path: Path) -> dict[str, NDArray[np.float64]]:
    """The boxes (n, 4) xyxy of each phrase id that has any: a picture's XML. Raises BrokenEntryError.

    An object without a name is no phrase's, as in the original, and left out.
    """
    root = _parse(_read(path), path)
    found: dict[str, list[list[int]]] = {}
    for number, each in enumerate(root.findall("object"), start=1):
        where = f"{path}: object {number}"
        names = [name.text for name in each.findall("name") if name.text]
        if not names:
            continue
        container = each.find("bndbox")
        if container is None:
            if each.find("nobndbox") is None:
                raise BrokenEntryError(BROKEN, f"{where} has neither bndbox nor nobndbox")
            continue
        box = [_whole(container, side, where) for side in ("xmin", "ymin", "xmax", "ymax")]
        for name in names:
            found.setdefault(name, []).append(box)
    return {name: np.array(boxes, np.float64) for name, boxes in found.items()}


def _phrases(line: str, where: str) -> Iterator[Phrase]:
    begun: tuple[str, tuple[str, ...]] | None = None
    words: list[str] = []
    for token in line.split():
        if begun is None:
            if token.startswith("["):
                parts = token.split("/")
                if not token.startswith(BEGIN) or parts[1] == "EN#":
                    raise BrokenEntryError(BROKEN, f"{where}: {short(token)} begins no phrase as [/EN#11/people does")
                begun = parts[1].removeprefix("EN#"), tuple(parts[2:])
            continue
        words.append(token.removesuffix(END))
        if token.endswith(END):
            yield Phrase(begun[0], " ".join(words), begun[1])
            begun, words = None, []


def _parse(data: bytes, path: Path) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise BrokenEntryError(BROKEN, f"{path} has a DOCTYPE, which the data set's files do not have: not read")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError: an encoding that is none
        raise BrokenEntryError(BROKEN, f"{path} is no XML ({error})") from error
    return builder.close()


def _whole(box: Element, side: str, where: str) -> int:
    text = box.findtext(side)
    try:
        if text is not None and len(text) <= 20:
            return int(text)
    except ValueError:
        pass
    raise BrokenEntryError(BROKEN, f"{where}: {side} is {short(text)}, not a whole number of pixels")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise BrokenEntryError("missing file", f"{path} does not exist") from error
    except OSError as error:
        raise BrokenEntryError("unreadable file", f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise BrokenEntryError(BROKEN, f"{path} has more than {MOST_BYTES >> 20} MB")
    return data
