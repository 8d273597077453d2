"""The picture that an item refers to, wherever its bytes are."""

from __future__ import annotations

import io
import threading
from collections.abc import Hashable
from typing import TYPE_CHECKING

from glip_export.errors import GlipExportError, ImageError, quoted
from glip_export.image import Picture
from glip_export.labelling.items import Where
from glip_export.labelling.kept import Kept
from glip_export.labelling.opened import identity_of, open_at_random
from glip_export.labelling.parquet_file import parquet_value
from glip_export.labelling.places import beside, check_pyarrow, is_url, local_path, open_filesystem, parent_of, why

if TYPE_CHECKING:
    from pyarrow import NativeFile

LARGEST = 512 * 2**20  # bytes of a picture that is read whole into memory

MOST_FAILED = 20  # requests to stores in a row: then it is the store, the network or who we are, not the pictures

_archives: Kept[NativeFile] = Kept(16)


class NamedBytes(io.BytesIO):
    """Bytes that errors call by a name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


class _Failures:
    """How many requests to object stores failed in a row, of all threads."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    def count(self, url: str, error: BaseException | None) -> None:
        """Of one that went well for None. Raises GlipExportError for the last of too many."""
        with self._lock:
            self._count = 0 if error is None else self._count + 1
            failed = self._count
        if error is not None and failed >= MOST_FAILED:
            raise GlipExportError(f"{failed} requests in a row failed; the last one, for {quoted(url)}: {why(error)}")


_failures = _Failures()


def read_picture(where: Where, name: str) -> Picture:
    """What `load_image` takes: the path of a local file, else the bytes, called `name`. Thread-safe.

    Raises ImageError for what is not there, cannot be read or is larger than 512 MB, GlipExportError where
    pyarrow is needed and not installed, and where an object store answers nothing any more.
    """
    if not is_url(where.path):
        return _read(where, name)
    try:
        picture = _read(where, name)
    except ImageError:
        _failures.count(where.path, _unanswered(where.path))
        raise
    _failures.count(where.path, None)
    return picture


def _read(where: Where, name: str) -> Picture:
    if where.column is not None and where.row is not None:
        return _of_parquet(where, where.column, where.row, name)
    if where.offset is not None and where.size is not None:
        return NamedBytes(_range(where.path, where.offset, where.size, name), name)
    try:
        file = local_path(where.path)
    except GlipExportError as error:
        raise ImageError(f"the picture {name!r} cannot be read: {error}") from None
    return NamedBytes(_whole(where.path, name), name) if file is None else file


def _of_parquet(where: Where, column: str, row: int, name: str) -> Picture:
    check_pyarrow()
    try:
        value = parquet_value(where.path, column, row, LARGEST)
    except GlipExportError as error:
        raise ImageError(f"the picture {name!r} cannot be read: {error}") from None
    if isinstance(value, dict):  # Hugging Face's pictures: bytes, or else a path
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return NamedBytes(value, name)
    if isinstance(value, str) and value:
        return read_picture(Where(beside(parent_of(where.path), value)), name)
    raise ImageError(f"the picture {name!r} is empty: row {row} of {where.path!r} has nothing in {column!r}")


def _range(path: str, offset: int, size: int, name: str) -> bytes:
    if size > LARGEST:
        raise ImageError(_too_large(size, name))
    check_pyarrow()
    key: Hashable = path
    try:
        key = identity_of(path)
        data: bytes = _archives.get(key, lambda: open_at_random(path)).read_at(size, offset)
    except FileNotFoundError:
        raise ImageError(f"the picture {name!r} cannot be read: {path!r} is not there") from None
    except (OSError, ValueError, MemoryError, GlipExportError) as error:  # ValueError: pyarrow's, too
        _archives.drop(key)
        raise ImageError(f"the picture {name!r} cannot be read: {why(error)}") from None
    if len(data) < size:
        raise ImageError(f"the picture {name!r} is cut off: {path!r} ends after {len(data)} of its {size} bytes")
    return data


def _whole(url: str, name: str) -> bytes:
    check_pyarrow()
    from pyarrow import ArrowException

    try:
        filesystem, path = open_filesystem(url)
        with filesystem.open_input_file(path) as file:
            if (size := file.size()) > LARGEST:
                raise ImageError(_too_large(size, name))
            data: bytes = file.read()
            return data
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"the picture {name!r} does not exist") from None
    except (OSError, ArrowException, GlipExportError) as error:
        raise ImageError(f"the picture {name!r} cannot be read: {why(error)}") from None


def _unanswered(url: str) -> OSError | None:
    """Why the store says nothing of a file; None where it does: then the picture is at fault, or is not there."""
    try:
        open_at_random(url).close()
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    except GlipExportError:  # no address of a store
        return None
    return None


def _too_large(size: int, name: str) -> str:
    """What is said of a picture too large to be read whole."""
    return f"{name!r} is too large: {size} bytes are more than {LARGEST // 2**20} MB"
