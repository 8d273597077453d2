"""A folder of pictures, or a prefix of an object store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glip_export.image import picture_suffixes
from glip_export.labelling.items import Item, Where
from glip_export.labelling.places import as_text, is_url
from glip_export.labelling.sources.names import escaped
from glip_export.labelling.sources.walk import suffix_of, walk


@dataclass(frozen=True)
class FolderSource:
    """Files with a picture's suffix below a folder; each is called by its path in it.

    folder: absolute, or a URL. left_out: a folder in it that is not entered.
    """

    folder: str
    left_out: Path | None = None
    carried: None = None

    def items(self) -> Iterator[Item]:
        """Files that only look like pictures are among them: they are told when they are opened."""
        suffixes = picture_suffixes()
        for found in walk(self.folder, self.left_out):
            if found.problem:
                # With a / at its end, as no file's: the folder's name could be a file's escaped one.
                yield Item(f"{escaped(found.relative)}/", Where(as_text(found.path)), problem=found.problem)
            elif suffix_of(found.relative) in suffixes:
                yield Item(escaped(found.relative), Where(as_text(found.path)))

    def count(self) -> int | None:
        """A folder here is walked, a second for some hundred thousand; of a store only its listing could say."""
        return None if is_url(self.folder) else sum(1 for _ in self.items())

    def describe(self) -> dict[str, Any]:
        """Its kind and where it is."""
        return {"kind": "folder", "path": escaped(self.folder)}
