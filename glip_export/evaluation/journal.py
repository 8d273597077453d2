"""Results as they come, so that a run that was killed goes on where it was.

Two files side by side: a JSON line a batch, and the batch's detections as rows (`rows.ROW`) in a binary file, which may
hold millions and is read a block at a time.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from glip_export.errors import GlipExportError
from glip_export.evaluation.entries import ImageId
from glip_export.evaluation.rows import ROW, Rows

MAX_SHOWN = 20  # characters of a value in the note on what differs
BLOCK = 1 << 20  # rows, or bytes, that are read at once
ROWS, SUM = "rows", "crc32"  # in a record: how many rows are its own, and the sum over their bytes
FORMAT = {"journal": 2}  # part of the first line; 1 had the detections in the records


class Log(Protocol):
    """Records in their order, each with any number of rows."""

    @property
    def records(self) -> Sequence[dict[str, Any]]:
        """All so far."""
        ...

    def append(self, record: Mapping[str, Any], rows: Rows) -> None:
        """Adds a record and its rows."""
        ...

    def blocks(self) -> Iterator[Rows]:
        """All rows so far, in their order."""
        ...


def left_out_of(log: Log) -> list[ImageId]:
    """The pictures that could not be read, as they were tried."""
    return [image_id for record in log.records for image_id in record["left_out"]]


class MemoryLog:
    """A log that ends with the process."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self._rows: list[Rows] = []

    def append(self, record: Mapping[str, Any], rows: Rows) -> None:
        """See `Log`."""
        self.records.append(_with_rows(record, rows.tobytes()))
        self._rows.append(rows)

    def blocks(self) -> Iterator[Rows]:
        """See `Log`."""
        return iter(self._rows)


class Journal:
    """An open journal: the log of a run, on the disk.

    The first line says what was asked; a line that a killed process left half-written is dropped, with what follows and
    with the rows of no line.
    """

    def __init__(self, path: Path, file: FileIO, rows: FileIO, records: list[dict[str, Any]], note: str) -> None:
        self.path = path
        self._file = file
        self._rows = rows
        self.records = records
        self.note = note  # what became of a journal of something else, "" if there was none

    @classmethod
    @contextmanager
    def open(cls, path: Path, identity: Mapping[str, Any]) -> Iterator[Journal]:
        """The journal at `path` of the run that `identity` (JSON values) tells from all others.

        One of another identity is kept beside it, as <name>.old, and a new one is started. Raises GlipExportError
        where it cannot be written or another process writes it.
        """
        try:
            from filelock import FileLock, Timeout
        except ImportError as error:
            raise GlipExportError("evaluation needs filelock: pip install 'glip-export[eval]'") from error
        beside = rows_file(path)
        with ExitStack() as opened:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                opened.enter_context(FileLock(path.with_name(f"{path.name}.lock"), timeout=0))
                identity = {**identity, **FORMAT}
                records, end, note = _read(path, identity, beside)
                if note:
                    for kept in (path, beside):
                        if kept.exists():
                            os.replace(kept, kept.with_name(f"{kept.name}.old"))
                # Unbuffered: what a full disk did not take is not tried again when the file is closed.
                file = opened.enter_context(_open_at(path, end))
                rows = opened.enter_context(_open_at(beside, ROW.itemsize * sum(map(_count, records))))
            except Timeout as error:
                raise GlipExportError(f"another process writes {path}: wait for it, or name another folder") from error
            except OSError as error:
                raise GlipExportError(f"cannot write {path}: {error.strerror or error}") from error
            journal = cls(path, file, rows, records, note)
            if not end:
                journal._write(file, _line({"identity": dict(identity)}))
            yield journal

    def append(self, record: Mapping[str, Any], rows: Rows | None = None) -> None:
        """Adds a record and its rows, on the disk when this returns."""
        data = b"" if rows is None else np.ascontiguousarray(rows, ROW).tobytes()
        record = _with_rows(record, data)
        if data:
            self._write(self._rows, data)
        self._write(self._file, _line(record))  # last: rows without their line do not count
        self.records.append(record)

    def blocks(self) -> Iterator[Rows]:
        """All rows so far, in their order, a block at a time."""
        try:
            with rows_file(self.path).open("rb") as file:
                while len(rows := np.fromfile(file, ROW, BLOCK)):
                    yield rows
        except OSError as error:
            raise GlipExportError(f"cannot read {rows_file(self.path)}: {error.strerror or error}") from error

    def _write(self, file: FileIO, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except OSError as error:
            raise GlipExportError(f"cannot write {self.path}: {error.strerror or error}") from error


def rows_file(path: Path) -> Path:
    """Where the rows of the journal at `path` are."""
    return path.with_suffix(".rows")


def journal_files(path: Path) -> tuple[Path, ...]:
    """All files that the journal at `path` may write."""
    own = (path, rows_file(path))
    return (*own, path.with_name(f"{path.name}.lock"), *(each.with_name(f"{each.name}.old") for each in own))


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False).encode() + b"\n"


def _with_rows(record: Mapping[str, Any], data: bytes) -> dict[str, Any]:
    return {**record, ROWS: len(data) // ROW.itemsize, SUM: zlib.crc32(data)}


def _count(record: Mapping[str, Any]) -> int:
    """Rows of a record."""
    return int(record[ROWS])


@contextmanager
def _open_at(path: Path, end: int) -> Iterator[FileIO]:
    """The file for writing on from `end`, cut there."""
    with open(path, "r+b" if end else "wb", buffering=0) as file:
        file.truncate(end)
        file.seek(end)
        yield file


def _read(path: Path, identity: Mapping[str, Any], beside: Path) -> tuple[list[dict[str, Any]], int, str]:
    """The records, where the last whole line ends, and a note if the journal is another run's.

    beside: the rows' file; a record whose rows are not there as they were written ends the journal.
    """
    records: list[dict[str, Any]] = []
    end = 0
    if not path.exists():
        return records, end, ""
    with open(path, "rb") as file, open(beside if beside.exists() else os.devnull, "rb") as rows:
        for line in file:
            try:
                value = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                value = None
            if not isinstance(value, dict):
                break
            if end == 0:
                found = value.get("identity")
                if found != json.loads(json.dumps(dict(identity))):
                    return [], 0, _differences(found if isinstance(found, dict) else {}, identity)
            else:
                own = value.get(ROWS)
                if not isinstance(own, int) or own < 0 or not _are_there(rows, own, value.get(SUM)):
                    break
                records.append(value)
            end += len(line)
    return records, end, ""


def _are_there(rows: BinaryIO, count: int, expected: object) -> bool:
    """Whether the next so many rows are those of which `expected` is the sum."""
    found, left = 0, count * ROW.itemsize
    while left and (data := rows.read(min(left, BLOCK))):
        found, left = zlib.crc32(data, found), left - len(data)
    return not left and found == expected


def _differences(found: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """ "batch 3, now 4; names differs"."""
    words = []
    for key, value in identity.items():
        before, now = (json.dumps(each) for each in (found.get(key), value))
        if before != now:
            is_short = max(len(before), len(now)) <= MAX_SHOWN
            words.append(f"{key} {before}, now {now}" if is_short else f"{key} differs")
    return "; ".join(words) or "another version's"
