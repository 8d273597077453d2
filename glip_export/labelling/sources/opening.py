"""Which kind of source a text names."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from glip_export.errors import GlipExportError, GlipExportWarning, quoted
from glip_export.image import picture_suffixes
from glip_export.labelling.places import check_pyarrow, is_url, local_path, split_options
from glip_export.labelling.sources.files import Files, expand, is_pattern, one_file, suffix_of_pattern
from glip_export.labelling.sources.folder import FolderSource
from glip_export.labelling.sources.listed import ListSource
from glip_export.labelling.sources.parquet import parquet_source
from glip_export.labelling.sources.source import Source
from glip_export.labelling.sources.walk import Found, check_folder, suffix_of, walk
from glip_export.labelling.sources.webdataset import webdataset_source

KINDS = (
    "a folder of pictures, a text file with a path a line, Parquet files, WebDataset shards (.tar), "
    "or an s3:// or gs:// address of these"
)
PARQUET, TAR = ".parquet", ".tar"
_CALLED = {PARQUET: "Parquet file(s)", TAR: "tar shard(s)"}
_LOOKED_AT = 10_000  # files after the first picture
_COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)\Z", re.IGNORECASE)
_LISTS = (".txt", ".list", ".lst")
# Text, but no path a line.
_NO_LISTS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".yaml", ".yml", ".xml", ".html", ".md", ".py", ".toml")


def open_source(text: str, *, column: str | None = None, left_out: Path | None = None) -> Source:
    """The source that a text names: a folder, a list, Parquet files, tar shards, or an address of one.

    column: of Parquet files, with the pictures' paths or bytes. left_out: the output folder, which may be in the
    source. Raises GlipExportError where there is nothing of the kind, or nothing in it.
    """
    source = _opened(text, column, left_out)
    items = source.items()
    first, second = next(items, None), next(items, None)
    if first is None:
        raise GlipExportError(f"{quoted(text)} holds no picture: give {KINDS}")
    if first.problem and second is None:
        raise GlipExportError(f"{quoted(text)} holds no picture: {first.source}: {first.problem}")
    return source


def _opened(text: str, column: str | None, left_out: Path | None) -> Source:
    if is_pattern(text):
        suffix = suffix_of_pattern(text)
        _check_files(suffix, text)
        return _of_files(suffix, expand(text, left_out), column, text)
    if not text:
        raise GlipExportError(f"the source is empty: give {KINDS}")
    path = _absolute(text)
    suffix = suffix_of(split_options(path)[0] if is_url(path) else path)
    if _is_folder(path, suffix):
        check_folder(path)
        return _of_folder(path, column, left_out, text)
    if suffix in (PARQUET, TAR) or _is_compressed(path):
        _check_files(suffix, text)
        return _of_files(suffix, one_file(path), column, text)
    _check_no_column(column, text)
    _check_list(path, suffix, text)
    return ListSource(path)


def _of_folder(path: str, column: str | None, left_out: Path | None, text: str) -> Source:
    """Pictures, if there is one; else Parquet files, else shards; what lies beside them is told of a folder here."""
    suffixes = picture_suffixes()
    kept: dict[str, list[Found]] = {PARQUET: [], TAR: []}
    walked = walk(path, left_out)
    for found in walked:
        suffix = suffix_of(found.relative)
        if suffix in suffixes:
            for beside in [] if is_url(path) else islice(walked, _LOOKED_AT):
                if (others := kept.get(suffix_of(beside.relative))) is not None:
                    others.append(beside)
            _tell_unread("pictures", kept, text)
            break
        for kind, files in kept.items():
            if suffix == kind or found.problem:
                files.append(found)
    else:
        for kind, files in kept.items():
            if any(not found.problem for found in files):
                _tell_unread("Parquet files", {TAR: kept[TAR]} if kind == PARQUET else {}, text)
                base = (split_options(path)[0] if is_url(path) else path).rstrip("/") + "/"
                return _of_files(kind, Files(base, tuple(files)), column, text)
    _check_no_column(column, text)
    return FolderSource(path, left_out)


def _tell_unread(what: str, kept: Mapping[str, Sequence[Found]], text: str) -> None:
    counts = {kind: sum(not found.problem for found in files) for kind, files in kept.items()}
    words = [f"{count} {_CALLED[kind]}" for kind, count in counts.items() if count]
    if words:
        warnings.warn(
            f"{quoted(text)} is labelled as {what}: {' and '.join(words)} beside them are not read: name them",
            GlipExportWarning,
            stacklevel=4,
        )


def _of_files(suffix: str, files: Files, column: str | None, text: str) -> Source:
    check_pyarrow()
    if suffix == PARQUET:
        return parquet_source(files, column)
    _check_no_column(column, text)
    return webdataset_source(files)


def _check_files(suffix: str, text: str) -> None:
    if _is_compressed(text):
        raise GlipExportError(f"{quoted(text)} is compressed, so that no picture in it can be sought: unpack it")
    if suffix in picture_suffixes():
        raise GlipExportError(
            f"{quoted(text)} names pictures one by one: give their folder, or a list with a path a line"
        )
    if suffix not in (PARQUET, TAR):
        raise GlipExportError(f"{quoted(text)} names files of no kind that can be labelled: give {KINDS}")


def _check_no_column(column: str | None, text: str) -> None:
    if column is not None:
        raise GlipExportError(f"--column names a column of Parquet files, and {quoted(text)} is none")


def _is_compressed(path: str) -> bool:
    return bool(_COMPRESSED.search(path))


def _absolute(text: str) -> str:
    if is_url(text):
        return text
    try:
        path = os.path.abspath(local_path(text) or text)
        os.stat(path)
    except (OSError, ValueError) as error:
        raise GlipExportError(f"{quoted(text)} is not there: give {KINDS}") from error
    return path


def _is_folder(path: str, suffix: str) -> bool:
    if not is_url(path):
        return os.path.isdir(path)
    check_pyarrow()
    return suffix not in (PARQUET, TAR, *_LISTS, *picture_suffixes()) and not _is_compressed(path)


def _check_list(path: str, suffix: str, text: str) -> None:
    if suffix in picture_suffixes():
        raise GlipExportError(f"{quoted(text)} is one picture: glip-export detect is for that; label takes {KINDS}")
    if suffix in _NO_LISTS:
        raise GlipExportError(f"{quoted(text)} is no list with a path a line: give {KINDS}")
    if is_url(path):
        return
    if not os.path.isfile(path):
        raise GlipExportError(f"{quoted(text)} is no regular file, which can be read again: give {KINDS}")
    try:
        with open(path, "rb") as file:
            binary = b"\0" in file.read(8192)
    except OSError as error:
        raise GlipExportError(f"{quoted(text)} cannot be read: {error.strerror}") from error
    if binary:
        raise GlipExportError(f"{quoted(text)} is no text: give {KINDS}")
