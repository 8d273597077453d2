"""Parquet files with a row a picture: its path, its bytes, or both as Hugging Face's data sets have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glip_export.errors import GlipExportError, quoted
from glip_export.labelling.items import Item, Where
from glip_export.labelling.parquet_file import open_parquet
from glip_export.labelling.places import as_text, beside, is_url, parent_of, why
from glip_export.labelling.sources.columns import Columns, differences, find_columns, paths_of, values_of
from glip_export.labelling.sources.files import Files
from glip_export.labelling.sources.names import UniqueNames, escaped
from glip_export.labelling.sources.walk import Found

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

ROWS_AT_ONCE = 256
_CHECKED_FILES, _CHECKED_REMOTE_FILES = 1000, 20  # whose footers are read before the first picture


@dataclass(frozen=True)
class ParquetSource:
    """Rows of Parquet files of one schema; only their paths and what they carry is read, never the pictures.

    A picture is called by its path, or else by its file and row, from 0: part-000.parquet#12. One whose path is not its
    own has the numbers of its file and row added: a.jpg#3.12.
    """

    files: Files
    columns: Columns

    @property
    def carried(self) -> pyarrow.Schema | None:
        """All other columns but those of bytes."""
        return self.columns.carried

    def items(self) -> Iterator[Item]:
        """A picture for each row; a file that cannot be read, or not to its end, is one."""
        names = UniqueNames()
        for number, found in enumerate(self.files.found):
            try:
                if found.problem:
                    raise GlipExportError(found.problem)
                yield from self._rows(number, found, names)
            except unreadable() as error:
                # No row is called so: theirs end in digits.
                yield self._problem(f"{escaped(found.relative)}#file", found, why(error))

    def count(self) -> int | None:
        """Rows, as the footers say, of not too many files."""
        if len(self.files.found) > _most_checked(self.files):
            return None
        return sum(rows for rows, _ in map(self._footer, self.files.found))

    def check(self) -> None:
        """Raises GlipExportError for a file of another schema, of as many as can be opened in a moment."""
        for found in self.files.found[: _most_checked(self.files)]:
            _, schema = self._footer(found)
            if schema is not None and (words := differences(self.columns.schema, schema)):
                raise GlipExportError(f"{found.relative!r} {words}")

    def describe(self) -> dict[str, Any]:
        """Its kind, files, and what is made of their columns."""
        return {
            "kind": "parquet",
            "path": escaped(self.files.base),
            "files": len(self.files.found),
            "column": self.columns.picture,
            "carried": [] if self.carried is None else self.carried.names,
            "not_carried": list(self.columns.not_carried),
        }

    def _footer(self, found: Found) -> tuple[int, pyarrow.Schema | None]:
        """Number of items, and the schema where it can be read."""
        try:
            if found.problem:
                return 1, None
            with open_parquet(found.path) as file:
                schema = file.schema_arrow
                return (1 if differences(self.columns.schema, schema) else file.metadata.num_rows), schema
        except unreadable():
            return 1, None

    def _rows(self, number: int, found: Found, names: UniqueNames) -> Iterator[Item]:
        with open_parquet(found.path) as file:
            if words := differences(self.columns.schema, file.schema_arrow):
                raise GlipExportError(words)
            folder, path, row = parent_of(found.path), as_text(found.path), 0
            for paths, carried, count in self._batches(file):
                for place in range(count):
                    values = tuple(column[place] for column in carried)
                    given = paths[place] if paths else None
                    source = f"{escaped(found.relative)}#{row}"
                    if given and "\0" not in given:
                        source = names.of(escaped(given), f"{number}.{row}")
                    if self.columns.kind != "path":
                        yield Item(source, Where(path, column=self.columns.picture, row=row), values)
                    elif given and "\0" not in given:
                        yield Item(source, Where(beside(folder, given)), values)
                    else:
                        words = f"row {row} of {found.relative!r} has no path in the column {self.columns.picture!r}"
                        yield Item(source, Where(path, column=self.columns.picture, row=row), values, words)
                    row += 1

    def _batches(self, file: pyarrow.parquet.ParquetFile) -> Iterator[tuple[list[str | None], list[list[Any]], int]]:
        """Paths (none where there is no column of them), the values carried, column by column, and how many rows."""
        leaf = self.columns.path_leaf
        read = [*([leaf] if leaf else []), *self.columns.names]
        if not read:
            for group in range(file.metadata.num_row_groups):
                yield [], [], file.metadata.row_group(group).num_rows
            return
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=read, use_threads=False):
            paths = paths_of(batch.column(self.columns.picture)) if leaf else []
            fields = zip(self.columns.names, self.columns.carried or (), strict=True)
            yield paths, [values_of(batch.column(name), field.type) for name, field in fields], batch.num_rows

    def _problem(self, source: str, found: Found, words: str) -> Item:
        return Item(source, Where(as_text(found.path)), (None,) * len(self.columns.names), words)


def parquet_source(files: Files, column: str | None) -> ParquetSource:
    """The source of these files, by the columns of the first that can be read. Raises GlipExportError."""
    problem = "there is none"
    for found in files.found:
        try:
            if found.problem:
                raise GlipExportError(found.problem)
            with open_parquet(found.path) as file:
                schema = file.schema_arrow
        except unreadable() as error:
            problem = problem if problem != "there is none" else f"{escaped(found.relative)}: {why(error)}"
            continue
        source = ParquetSource(files, find_columns(schema, column, found.relative))
        source.check()
        return source
    raise GlipExportError(f"no Parquet file of {quoted(files.base)} can be read: {problem}")


def unreadable() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises; ValueError: of text that is none."""
    from pyarrow import ArrowException

    return (OSError, ArrowException, GlipExportError, ValueError, MemoryError)


def _most_checked(files: Files) -> int:
    return _CHECKED_REMOTE_FILES if is_url(files.base) else _CHECKED_FILES
