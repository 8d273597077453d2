"""A text file with a picture's path a line."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

from glip_export.errors import GlipExportError
from glip_export.labelling.items import Item, Where
from glip_export.labelling.places import as_text, beside, is_url, local_path, open_filesystem, parent_of, why
from glip_export.labelling.sources.names import UniqueNames, escaped

LONGEST_LINE = 16_384  # bytes; file systems and object stores have paths of 4096 and less
_COUNTED_BYTES = 2**28  # longer files are not read to count lines


@dataclass(frozen=True)
class ListSource:
    """A picture a line: a path, from the file's own folder on, or a URL; it is called what stands there.

    path: of the file, absolute, or a URL. A line that stands twice has its number added: a.jpg#3.
    """

    path: str
    carried: None = None

    def items(self) -> Iterator[Item]:
        """A picture for each line that is not blank."""
        folder, names = parent_of(self.path), UniqueNames()
        for number, line in self._lines():
            text = line.decode("utf-8", "surrogateescape")
            problem = _problem(text, len(line))
            source = names.of(escaped(text[:80] if problem else text), str(number))
            where = Where(as_text(self.path) if problem else beside(folder, text))
            yield Item(source, where, problem=f"line {number} of {self.path!r} {problem}" if problem else "")

    def count(self) -> int | None:
        """Lines, of a file of moderate size here."""
        file = local_path(self.path)
        if file is None or file.stat().st_size > _COUNTED_BYTES:
            return None
        return sum(1 for _ in self._lines())

    def describe(self) -> dict[str, Any]:
        """Its kind and where it is."""
        return {"kind": "list", "path": escaped(self.path)}

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Number from 1 and bytes of each line that is not blank, without its end."""
        try:
            with _opened(self.path) as file:
                for number, line in enumerate(iter(lambda: _line(file), b""), start=1):
                    line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                    line = line.removesuffix(b"\n").removesuffix(b"\r")
                    if line.strip():
                        yield number, line
        except OSError as error:
            raise GlipExportError(f"the list {self.path!r} cannot be read: {why(error)}") from error


def _line(file: IO[bytes]) -> bytes:
    """The next line with its end; of one that is too long its beginning."""
    line = file.readline(LONGEST_LINE + 2)
    if len(line) == LONGEST_LINE + 2 and not line.endswith(b"\n"):
        while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
            pass
    return line


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    file = local_path(path)
    if file is not None:
        with open(file, "rb", buffering=2**16) as local:
            yield local
        return
    from pyarrow import ArrowException

    filesystem, inner = open_filesystem(path)
    try:
        with filesystem.open_input_stream(inner) as stream:
            yield io.BufferedReader(cast(io.RawIOBase, stream), 2**20)
    except ArrowException as error:
        raise OSError(why(error)) from error


def _problem(text: str, size: int) -> str:
    """Why a line is no path."""
    if size > LONGEST_LINE or "\0" in text:
        return "is no path"
    if is_url(text) and os.fsencode(text).decode("utf-8", "replace") != text:
        return "is an address that is no UTF-8"
    return ""
