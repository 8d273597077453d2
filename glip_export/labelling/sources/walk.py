"""All files below a folder, of this file system or an object store, in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glip_export.bundle.files import file_identity
from glip_export.errors import GlipExportError
from glip_export.labelling.places import is_url, local_path, open_filesystem, split_options, why
from glip_export.labelling.question import FILE, FLOOR, read_question
from glip_export.labelling.shards import FOLDER


@dataclass(frozen=True)
class Found:
    """A file, or a folder that cannot be listed, whose problem is said. relative: to the folder walked, with /."""

    relative: str
    path: str
    problem: str = ""


def walk(folder: str, left_out: Path | None = None) -> Iterator[Found]:
    """All files below the folder, without hidden ones, sorted by name folder by folder; one folder's names in memory.

    Links are followed; a folder that several ways lead to is entered once, so that circles end. left_out: a folder not
    to enter, as are those of labelling runs, below the one given. A path may hold bytes that are no UTF-8, as
    os.fsdecode has them.
    """
    local = not is_url(folder)
    base, options = (str(local_path(folder)), "") if local else split_options(folder)
    separator = os.sep if local else "/"
    base = base if base.endswith(separator) else base + separator
    entered: set[tuple[int, int] | None] = set()
    waiting = [("", True)]  # the next one last
    while waiting:
        relative, is_folder = waiting.pop()
        path = base + (relative if separator == "/" else relative.replace("/", separator))
        if not is_folder:
            yield Found(relative, path + options)
            continue
        if local:
            identity = file_identity(path)
            if identity in entered or (relative and is_left_out(path, left_out)):
                continue
            entered.add(identity or (0, len(entered)))
        try:
            names = list_folder(path + options)
        except OSError as error:
            yield Found(relative or ".", path + options, f"the folder cannot be listed: {why(error)}")
            continue
        below = [(f"{relative}/{name}" if relative else name, is_folder) for name, is_folder in names]
        waiting.extend(reversed([entry for entry in below if not is_hidden(entry[0])]))


def is_left_out(folder: str, left_out: Path | None) -> bool:
    """Whether a folder here is the one to leave out, or of a labelling run: with data sets, not pictures to label."""
    if left_out is not None and (identity := file_identity(folder)) is not None and identity == file_identity(left_out):
        return True
    if not os.path.isfile(os.path.join(folder, FILE)) or not os.path.isdir(os.path.join(folder, FOLDER)):
        return False
    try:
        return FLOOR in (read_question(Path(folder)) or {})
    except GlipExportError:  # another's run.json
        return False


def list_folder(folder: str) -> list[tuple[str, bool]]:
    """Name and whether it is a folder, of all that a folder holds, sorted. Raises OSError."""
    if is_url(folder):
        return _list_remote(folder)
    with os.scandir(folder) as entries:
        return sorted((entry.name, _is_folder(entry)) for entry in entries)


def is_hidden(relative: str) -> bool:
    """Whether the last part of the path starts with a point."""
    return relative.rpartition("/")[2].startswith(".")


def suffix_of(name: str) -> str:
    """The last suffix in lower case with its point, "" without one."""
    stem, point, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if stem and point else ""


def _list_remote(folder: str) -> list[tuple[str, bool]]:
    from pyarrow import ArrowException
    from pyarrow.fs import FileSelector, FileType

    filesystem, path = open_filesystem(folder)
    try:
        found = filesystem.get_file_info(FileSelector(path.rstrip("/") or "/", recursive=False))
    except ArrowException as error:
        raise OSError(why(error)) from error
    return sorted((info.base_name, info.type == FileType.Directory) for info in found if info.base_name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: told when it is opened
        return False


def check_folder(folder: str) -> None:
    """Raises GlipExportError where the folder itself cannot be listed."""
    try:
        list_folder(folder if is_url(folder) else str(local_path(folder)))
    except OSError as error:
        raise GlipExportError(f"the folder {folder!r} cannot be listed: {why(error)}") from error
