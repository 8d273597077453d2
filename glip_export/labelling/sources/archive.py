"""The headers of a tar archive that others wrote: no size in it is believed, no end of it passed over in silence."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, cast

from glip_export.errors import GlipExportError
from glip_export.labelling.opened import open_at_random
from glip_export.labelling.places import is_url, local_path

if TYPE_CHECKING:
    from pyarrow import NativeFile

UNREADABLE = (OSError, ValueError, MemoryError, RecursionError, tarfile.TarError, GlipExportError)

_LARGEST_READ = 2**20  # bytes of a long name or of extended attributes
_REMOTE_BUFFER = 2**20
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


def open_archive(path: str) -> Archive:
    """A file here or in an object store. Raises OSError, and GlipExportError for an address of no store."""
    file = local_path(path)
    if file is not None:
        return Archive(open(file, "rb"))
    assert is_url(path)
    return Archive(io.BufferedReader(_Remote(open_at_random(path)), _REMOTE_BUFFER))


class Archive:
    """The file as tarfile reads it: not more at once than a header may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int) -> bytes:
        """Raises ReadError for what only a damaged or a hostile header asks for."""
        if not 0 <= size <= _LARGEST_READ:
            raise tarfile.ReadError(f"a header says that it has {size} bytes")
        return self._file.read(size)


def headers(file: Archive) -> Iterator[tarfile.TarInfo]:
    """All members, in constant memory. Raises one of `UNREADABLE` where the archive is damaged or cut off."""
    if kind := compression(file):
        raise tarfile.ReadError(f"it is compressed ({kind}), so that no picture in it can be sought: unpack it")
    file.seek(0)
    with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as archive:
        last = -1
        while (member := archive.next()) is not None:
            vars(archive)["members"] = []  # which would grow with each one
            if archive.offset <= last or member.size < 0:  # it would come again for ever
                raise tarfile.ReadError(f"the header at byte {member.offset} is damaged")
            last = archive.offset
            yield member
        # tarfile ends the same at zeros, as an archive does, at the end of a file, and at a header that it cannot read.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"the header at byte {archive.offset} is damaged: what follows is not read")


def compression(file: Archive) -> str:
    """What the archive is compressed by, "" for nothing."""
    file.seek(0)
    start = file.read(8)
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "")


class _Remote(io.RawIOBase):
    """pyarrow's file as Python's buffers read it."""

    def __init__(self, file: NativeFile) -> None:
        self._native, self._place, self._size = file, 0, file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("a place before the file's start")
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._place))
        data = self._native.read_at(size, self._place) if size else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
