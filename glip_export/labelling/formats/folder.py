"""The folder of a data set in one format: as a whole it replaces what was made before, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from glip_export.bundle.files import atomic_directory
from glip_export.errors import GlipExportError
from glip_export.labelling.inside import Inside
from glip_export.labelling.shards import read_paths, shard_files

MADE = "_made.json"  # tells such a folder from others; who reads a folder of Parquet passes over names with _
_BY = "glip-export label"
_BY_PRODUCTS = (".cache", ".npy")  # what Ultralytics leaves beside labels and pictures, and makes anew


@contextmanager
def made_folder(target: Path, kind: str, changing: str = "") -> Iterator[Path]:
    """A temporary folder to fill, which becomes `target` when the block ends well, else disappears.

    kind: the format. changing: a folder in it whose files others may have changed. Raises GlipExportError, before the
    block runs, where `target` is not one of these folders, holds a file that was added, changed or removed since it was
    made, or one that is a picture of the run whose output it is in.
    """
    _check_no_picture(target)
    check = partial(_check_replaceable, changing=changing)
    with atomic_directory(target, replaceable=check, lasting=False) as temporary:
        yield temporary
        count = sum(1 for _ in _files(temporary))
        document = {"by": _BY, "format": kind, "files": count}
        (temporary / MADE).write_text(json.dumps(document) + "\n", encoding="utf-8")


def _check_replaceable(target: Path, changing: str) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise GlipExportError(f"{target} is a file, where a folder is to be made: move it elsewhere")
    if not any(target.iterdir()):
        return
    try:
        document = json.loads((target / MADE).read_bytes())
        made, count = (target / MADE).stat().st_mtime_ns, int(document["files"])
        ours = document["by"] == _BY
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise GlipExportError(f"{target} was not made by `{_BY}`, so it is not replaced: move it elsewhere")
    found = 0
    for file in _files(target):
        found += 1
        if file.stat(follow_symlinks=False).st_mtime_ns > made:
            changed = Path(file.path).relative_to(target)
            if changed.parts[0] == changing:
                continue
            raise GlipExportError(f"{target} is not replaced, since {changed} in it was changed: move it elsewhere")
    if found and found != count:
        raise GlipExportError(
            f"{target} is not replaced, since it holds {found} files and was made with {count}: move it elsewhere"
        )


def _check_no_picture(target: Path) -> None:
    """Raises GlipExportError where a picture that the shards beside the folder are of would go with it."""
    if not target.exists():
        return
    inside = Inside(target)
    for path in (path for shard in shard_files(target.parent) for path in read_paths(shard)):
        if path in inside:
            raise GlipExportError(
                f"{target} is not replaced, since {path!r} in it is a picture of the source: "
                "name another --format, or keep the pictures elsewhere and label them into another folder"
            )


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All files below, but those that are of the folder itself and those that can be made anew."""
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.name != MADE and not entry.name.endswith(_BY_PRODUCTS):
                    yield entry
