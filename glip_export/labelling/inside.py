"""Which files would go with a folder that is replaced: those that are reached through it, and those that lie in it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from glip_export.bundle.files import file_identity
from glip_export.errors import GlipExportError
from glip_export.labelling.places import is_url, local_path


class Inside:
    """The paths and file:// URLs that are the folder or lead into it, by their names or through links.

    One that is nowhere is told by the folders of its name that are there.
    """

    def __init__(self, folder: Path) -> None:
        self._identity = file_identity(folder)
        self._leads_in = lru_cache(4096)(self._is_below)  # the files of a data set share few folders

    def __contains__(self, path: str) -> bool:
        if self._identity is None or is_url(path):
            return False
        try:
            path = str(local_path(path))
        except GlipExportError:  # of another host
            return False
        parent, name = os.path.split(path.rstrip(os.sep) or path)
        if name in ("", ".", ".."):
            return self._is_below(path)
        if self._leads_in(parent or "."):
            return True
        file = os.path.join(parent, name)
        return (os.path.islink(file) or os.path.isdir(file)) and self._is_below(file)

    def _is_below(self, path: str) -> bool:
        place = Path(os.path.realpath(path))
        return any(file_identity(each) == self._identity for each in (place, *place.parents))
