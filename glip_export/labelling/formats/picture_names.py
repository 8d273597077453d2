"""What pictures of any source are called in a folder: safe on every file system, none twice, folders kept."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np

from glip_export.image import picture_suffixes

_UNSAFE = re.compile(r'[<>:"|?*\\]')  # on Windows, whose archives and shares these folders may meet
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)  # there, whatever the suffix
_TAKEN = {"images", "labels"}  # Ultralytics finds a picture's labels by the last /images/ of its path
_LONGEST_PART, _LONGEST = 120, 600  # bytes; file systems allow 255 and about 4000


class PictureNames:
    """Names of a source's pictures, without suffixes; two that would be equal but for case or suffix get a digest."""

    def __init__(self, sources: Iterable[str]) -> None:
        """Reads all sources once; keeps 8 bytes of each."""
        keys = np.frombuffer(array("Q", (_key(safe_stem(source)) for source in sources)), np.uint64)
        ordered = np.sort(keys)
        self._twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])

    def of(self, source: str) -> str:
        """The path of a picture of the source in a folder, with / between, without its suffix."""
        stem = safe_stem(source)
        key = np.uint64(_key(stem))
        place = int(np.searchsorted(self._twice, key))
        if place < len(self._twice) and self._twice[place] == key:
            return f"{stem}-{_digest(source, 12)}"
        return stem


def safe_stem(source: str) -> str:
    """A source as a relative path without its picture's suffix; different ones may give the same."""
    *folders, name = [part for part in source.split("/") if part not in ("", ".")] or ["picture"]
    if PurePosixPath(name).suffix.lower() in picture_suffixes():
        name = name[: name.rindex(".")]
    parts = [*(_as_folder(_safe(folder)) for folder in folders), _safe(name)]
    stem = "/".join(parts)
    return stem if len(stem.encode()) <= _LONGEST else f"{parts[-1]}-{_digest(source, 12)}"


def _as_folder(part: str) -> str:
    """The name of a folder that no picture or label can have, and that no picture's path is cut at."""
    if part.lower() in _TAKEN:
        return f"{part}_"
    stem, dot, suffix = part.rpartition(".")
    return f"{stem}_{suffix}" if dot and f".{suffix.lower()}" in {*picture_suffixes(), ".txt"} else part


def _safe(part: str) -> str:
    # Not printable: control characters, line ends, what turns a text's direction, halves of surrogates.
    clean = "".join(character if character.isprintable() else "_" for character in _UNSAFE.sub("_", part))
    clean = clean.lstrip(".").rstrip(". ") or "_"  # glob passes over what begins with a stop
    if _DEVICE.match(clean):
        stem, dot, rest = clean.partition(".")
        clean = f"{stem}_{dot}{rest}"
    data = clean.encode()
    if len(data) <= _LONGEST_PART:
        return clean
    return f"{data[:_LONGEST_PART].decode(errors='ignore').rstrip('. ')}-{_digest(part, 8)}"


def _key(stem: str) -> int:
    """Equal for names that are one file where case or the form of accents does not count."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold())
    return int.from_bytes(hashlib.blake2b(folded.encode(), digest_size=8).digest(), "little")


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
