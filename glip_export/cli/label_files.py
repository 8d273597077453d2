"""What `glip-export label` writes falls neither on what it reads nor on what it keeps: told before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from glip_export.cli.outputs import Files, check_outputs
from glip_export.errors import GlipExportError
from glip_export.labelling.formats.convert import FORMATS
from glip_export.labelling.formats.errors_file import FILE as ERRORS
from glip_export.labelling.inside import Inside
from glip_export.labelling.question import FILE as QUESTION
from glip_export.labelling.question import LOCK
from glip_export.labelling.shards import FOLDER as SHARDS
from glip_export.labelling.sources import Source
from glip_export.labelling.sources.folder import FolderSource
from glip_export.labelling.sources.listed import ListSource
from glip_export.labelling.sources.parquet import ParquetSource
from glip_export.labelling.sources.webdataset import WebDatasetSource
from glip_export.labelling.summary import FILE as SUMMARY

_FOLDERS = (*FORMATS, SHARDS)  # of a run, which are replaced whole or in parts
_FILES = (QUESTION, LOCK, SUMMARY, ERRORS)
_SUFFIXES = {"--html": (".html", ".htm"), "--json": (".json",)}
_LOOKED_AT = 1000  # pictures; all are looked at before a folder is replaced


def check_files(
    source: str, output: Path, written: Mapping[str, Path | None], read: Iterable[Path | str | None]
) -> None:
    """Raises GlipExportError where something that is written would fall on what is read, or on what the run keeps.

    written: by the option that named each, --html and --json.
    """
    if not source:
        raise GlipExportError("SOURCE is empty: name a folder, a list, Parquet files or shards")
    check_outputs(written, [*read, source])
    for option, path in written.items():
        if path is not None and (path.is_file() or not path.exists()):  # no device, no pipe
            _check_result(option, path, output)
    if Path(source).exists() and output.exists() and Path(source).samefile(output):
        raise GlipExportError(f"--output {output} is the source itself: name another folder")


def check_source(source: Source, output: Path) -> None:
    """Raises GlipExportError where the source lies in what the run replaces, as an earlier run's pictures would."""
    folders = [output / name for name in _FOLDERS if (output / name).exists()]
    if not folders:
        return
    insides = [(folder, Inside(folder)) for folder in folders]
    for path in _paths(source):
        for folder, inside in insides:
            if path in inside:
                words = f"the source's {path!r} is in {folder}, which this run replaces"
                raise GlipExportError(f"{words}: name another --output")


def _paths(source: Source) -> Iterator[str]:
    """The source itself, the files that it reads, and the first of its pictures."""
    if isinstance(source, FolderSource):
        yield source.folder
    elif isinstance(source, ListSource):
        yield source.path
    elif isinstance(source, (ParquetSource, WebDatasetSource)):
        yield from (found.path for found in source.files.found)
    yield from (item.where.path for item in islice(source.items(), _LOOKED_AT))


def _check_result(option: str, path: Path, output: Path) -> None:
    if path.suffix.lower() not in _SUFFIXES[option]:
        there = " is there, and may be a picture of the source" if path.is_file() else " has another ending"
        raise GlipExportError(f"{option} {path}{there}: name a file that ends with {_SUFFIXES[option][0]}")
    if path in Files(output / name for name in _FILES):
        raise GlipExportError(f"{option} {path} is a file of the run's own: name another file")
    place, folder = Path(os.path.realpath(path)), Path(os.path.realpath(output))
    if any(place.is_relative_to(folder / name) or str(path) in Inside(output / name) for name in _FOLDERS):
        raise GlipExportError(f"{option} {path} is in a folder that the run replaces: name another file")
