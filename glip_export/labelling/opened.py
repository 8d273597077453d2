"""Files of this file system or an object store, open for reading at any place."""

from __future__ import annotations

import os
from collections.abc import Hashable
from typing import TYPE_CHECKING

from glip_export.labelling.places import is_url, local_path, open_filesystem, why

if TYPE_CHECKING:
    from pyarrow import NativeFile


def open_at_random(path: str) -> NativeFile:
    """pyarrow's file, whose read_at several threads may use at once.

    Raises OSError, also for what pyarrow calls otherwise, and GlipExportError as `open_filesystem`.
    """
    import pyarrow as pa

    file = local_path(path)
    try:
        if file is not None:
            return pa.OSFile(os.fsencode(file), "rb")
        filesystem, inner = open_filesystem(path)
        return filesystem.open_input_file(inner)
    except pa.ArrowException as error:
        raise OSError(why(error)) from error


def identity_of(path: str) -> Hashable:
    """What tells a file from another that takes its place; of one in an object store only its address."""
    if is_url(path):
        return path
    status = os.stat(local_path(path) or path)
    return path, status.st_ino, status.st_size, status.st_mtime_ns
