"""The objects of a JSON list that is larger than memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glip_export.errors import GlipExportError

READ_BYTES = 1 << 20
MOST_BYTES = 1 << 26  # of one entry
BLANKS = b" \t\r\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BETWEEN = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=\{)")  # two objects of the list, or of a list within one
TRIES = 8  # ends of objects that are taken for an entry's, from the last: the others are within an entry


def json_entries(path: Path, progress: Callable[[int], None] = lambda done: None) -> Iterator[list[Any]]:
    """The entries of the list of objects in a file, about a megabyte of them at a time, so that memory stays flat.

    progress: told the bytes read so far. Raises GlipExportError where the file cannot be read or holds no such list.
    """
    try:
        with path.open("rb") as file:
            start = file.read(READ_BYTES).removeprefix(BYTE_ORDER_MARK).lstrip(BLANKS)
            if not start.startswith(b"["):
                raise GlipExportError(f"{path} is no JSON list of objects: it does not begin with '['")
            waiting, is_first = start[1:], True
            while more := file.read(max(READ_BYTES, len(waiting))):  # an entry longer than that: twice as much
                progress(file.tell())
                waiting += more
                entries, end = _whole_entries(waiting)
                waiting = waiting[end:]
                if entries:
                    is_first = False
                    yield entries
                elif len(waiting) > MOST_BYTES:
                    where = f"from byte {file.tell() - len(waiting)} on"
                    raise GlipExportError(f"{path} is no JSON list of objects of at most {MOST_BYTES >> 20} MB {where}")
            entries = _last_entries(waiting, path)
            if not entries and not is_first:
                raise GlipExportError(f"{path} is no JSON list of objects: nothing stands after its last comma")
            progress(file.tell())
            if entries:
                yield entries
    except OSError as error:
        raise GlipExportError(f"cannot read {path}: {error.strerror or error}") from error


def _whole_entries(text: bytes) -> tuple[list[Any], int]:
    """The entries that are whole, but for the last, and where the next begins; none where no end of one is found."""
    end, tries = len(text), 0
    while tries < TRIES and (end := text.rfind(b"}", 0, end)) > 0:
        if between := BETWEEN.match(text, end):
            tries += 1
            try:
                entries: list[Any] = json.loads(b"[" + text[: end + 1] + b"]")
            except (ValueError, RecursionError):
                continue
            return entries, between.end()
    return [], 0


def _last_entries(text: bytes, path: Path) -> list[Any]:
    try:
        entries: list[Any] = json.loads(b"[" + text)
    except (ValueError, RecursionError) as error:
        raise GlipExportError(f"{path} is no JSON list of objects: its end is not JSON ({error})") from error
    return entries
