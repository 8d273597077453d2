"""Parquet files, and single values of them: rows asked one after the other are read once."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from glip_export.errors import ImageError
from glip_export.labelling.kept import Kept
from glip_export.labelling.opened import identity_of, open_at_random
from glip_export.labelling.places import is_url, why

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

# Read as a stream: without these pyarrow reads a column's whole row group, which may be all of a file's pictures.
_BUFFER, _REMOTE_BUFFER = 2**20, 2**23
_ROWS_AT_ONCE = 16
_KEPT_BATCHES, _KEPT_BYTES = 8, 2**26  # of the rows read last; threads ask for them in nearly their order

_files: Kept[_Values] = Kept(4)


@contextmanager
def open_parquet(path: str) -> Iterator[pyarrow.parquet.ParquetFile]:
    """pyarrow's ParquetFile, closed after the block. Raises what it raises, and GlipExportError."""
    with closing(_opened(path)) as file:
        yield file


def parquet_value(path: str, column: str, row: int, largest: int) -> Any:
    """A column's value in a row, counted from 0 over the file, as Python has it; thread-safe.

    largest: bytes. Raises ImageError, without the picture's name, for a value that is larger or cannot be read.
    """
    import pyarrow as pa

    key: Any = path
    try:
        key = identity_of(path), column
        return _files.get(key, lambda: _Values(path, column)).value(row, largest)
    except FileNotFoundError:
        raise ImageError(f"the file {path!r} is not there") from None
    except (OSError, pa.ArrowException, KeyError, ValueError, MemoryError) as error:
        _files.drop(key)
        raise ImageError(f"{path!r}: {why(error)}") from None


class _Values:
    """One column of a file, read from row group to row group, and in one from its start on."""

    def __init__(self, path: str, column: str) -> None:
        self._file, self._column = _opened(path), column
        groups = self._file.metadata
        self._starts = [0]
        for group in range(groups.num_row_groups):
            self._starts.append(self._starts[-1] + groups.row_group(group).num_rows)
        self._lock = threading.Lock()
        self._batches: Iterator[pyarrow.RecordBatch] = iter(())
        self._group, self._next = -1, 0  # where the batches are
        self._read: deque[tuple[int, pyarrow.Array]] = deque()  # first row and values of the last ones

    def value(self, row: int, largest: int) -> Any:
        if not 0 <= row < self._starts[-1]:
            raise ValueError(f"there is no row {row}")
        with self._lock:
            first, values = self._kept(row) or self._advance(row)
        one = values[row - first : row - first + 1]
        if one.nbytes > largest:  # before it is copied
            raise ImageError(f"row {row} is too large: {one.nbytes} bytes are more than {largest // 2**20} MB")
        return one[0].as_py()

    def _kept(self, row: int) -> tuple[int, pyarrow.Array] | None:
        return next(((first, values) for first, values in self._read if first <= row < first + len(values)), None)

    def _advance(self, row: int) -> tuple[int, pyarrow.Array]:
        group = bisect_right(self._starts, row) - 1
        if group != self._group or row < self._next:
            self._batches = self._file.iter_batches(
                _ROWS_AT_ONCE, row_groups=[group], columns=[self._column], use_threads=False
            )
            self._group, self._next = group, self._starts[group]
        for batch in self._batches:
            first, values = self._next, batch.column(self._column)
            self._next += batch.num_rows
            if row < self._next:
                self._keep(first, values)
                return first, values
        raise ValueError(f"the file ends before row {row}")

    def _keep(self, first: int, values: pyarrow.Array) -> None:
        self._read.append((first, values))
        while len(self._read) > _KEPT_BATCHES or (
            len(self._read) > 1 and sum(values.nbytes for _, values in self._read) > _KEPT_BYTES
        ):
            self._read.popleft()


def _opened(path: str) -> pyarrow.parquet.ParquetFile:
    import pyarrow.parquet

    buffer = _REMOTE_BUFFER if is_url(path) else _BUFFER
    return pyarrow.parquet.ParquetFile(open_at_random(path), buffer_size=buffer, pre_buffer=False)
