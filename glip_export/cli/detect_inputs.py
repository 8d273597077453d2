"""The pictures that `glip-export detect` is given: files as they are, folders walked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from glip_export.errors import ImageError
from glip_export.image import picture_suffixes
from glip_export.results.annotated import is_annotated


@dataclass(frozen=True)
class Found:
    """A picture's file, not opened yet."""

    path: Path
    relative: Path  # in the folder that was given, or the file's name alone
    problem: str = ""  # of a folder that cannot be listed
    annotated: Path | None = None  # where the annotated picture goes


def find_pictures(given: Sequence[Path], output: Path | None) -> list[Found]:
    """The files among `given` as they are, and the pictures of folders, in sorted order, however deep.

    In folders a picture is known by its suffix. Hidden files and folders, the folder `output` and what was annotated
    in it before are left out; links are followed, each linked folder once. Raises ImageError for what is not there,
    and for a folder without pictures.
    """
    suffixes = picture_suffixes()
    left_out = None if output is None else os.path.realpath(output)
    found: list[Found] = []
    for path in given:
        if not _exists(path):
            raise ImageError(f"the picture {str(path)!r} does not exist")
        if not path.is_dir():
            found.append(Found(path, Path(path.name)))
            continue
        inside = list(_walk(path, Path(), left_out, suffixes, set()))
        if not inside:
            raise ImageError(
                f"no picture in the folder {str(path)!r}: files are taken by their suffix (.jpg, .png, ...)"
            )
        found += inside
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or with a NUL
        return False


def _walk(
    folder: Path, relative: Path, output: str | None, suffixes: frozenset[str], seen: set[tuple[int, int]]
) -> Iterator[Found]:
    """seen: folders that were walked, by device and inode: a link to one above would never end."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield Found(folder, relative, f"the folder {str(folder)!r} cannot be read: {error.strerror or error}")
        return
    real = os.path.realpath(folder)
    annotated_here = output is not None and Path(real).is_relative_to(
        output
    )  # pictures of a folder that are annotated into it
    for name in names:
        path = folder / name
        if name.startswith("."):
            continue
        if path.is_dir():
            if os.path.realpath(path) != output:
                yield from _walk(path, relative / name, output, suffixes, seen)
        elif path.suffix.lower() in suffixes and not (annotated_here and is_annotated(path)):
            yield Found(path, relative / name)
