"""Results as they come, a JSON line a batch, so that a run that was killed goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from glip_export.errors import GlipExportError

MAX_SHOWN = 20  # characters of a value in the note on what differs


class Journal:
    """An open journal: the records so far, and more at the end.

    The first line says what was asked; a line that a killed process left half-written is dropped, with what follows.
    """

    def __init__(self, path: Path, file: FileIO, records: list[dict[str, Any]], note: str) -> None:
        self.path = path
        self._file = file
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
        with ExitStack() as opened:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                opened.enter_context(FileLock(path.with_name(f"{path.name}.lock"), timeout=0))
                records, end, note = _read(path, identity)
                if note:
                    os.replace(path, path.with_name(f"{path.name}.old"))
                # Unbuffered: what a full disk did not take is not tried again when the file is closed.
                file = opened.enter_context(open(path, "r+b" if end else "wb", buffering=0))
                file.truncate(end)
                file.seek(end)
            except Timeout as error:
                raise GlipExportError(f"another process writes {path}: wait for it, or name another folder") from error
            except OSError as error:
                raise GlipExportError(f"cannot write {path}: {error.strerror or error}") from error
            journal = cls(path, file, records, note)
            if not end:
                journal._write({"identity": dict(identity)})
            yield journal

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a record, on the disk when this returns."""
        self._write(record)
        self.records.append(dict(record))

    def _write(self, value: Mapping[str, Any]) -> None:
        try:
            data = memoryview(json.dumps(value, allow_nan=False).encode() + b"\n")
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise GlipExportError(f"cannot write {self.path}: {error.strerror or error}") from error


def _read(path: Path, identity: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int, str]:
    """The records, where the last whole line ends, and a note if the journal is another run's."""
    records: list[dict[str, Any]] = []
    end = 0
    if not path.exists():
        return records, end, ""
    with open(path, "rb") as file:
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
                records.append(value)
            end += len(line)
    return records, end, ""


def _differences(found: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """ "batch 3, now 4; names differs"."""
    words = []
    for key, value in identity.items():
        before, now = (json.dumps(each) for each in (found.get(key), value))
        if before != now:
            is_short = max(len(before), len(now)) <= MAX_SHOWN
            words.append(f"{key} {before}, now {now}" if is_short else f"{key} differs")
    return "; ".join(words) or "another version's"
