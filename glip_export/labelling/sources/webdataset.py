"""WebDataset shards: tar archives whose members of one key belong together."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from glip_export.errors import GlipExportError
from glip_export.image import picture_suffixes
from glip_export.labelling.items import Item, Where
from glip_export.labelling.places import as_text, why
from glip_export.labelling.sources.archive import UNREADABLE, compression, headers, open_archive
from glip_export.labelling.sources.files import Files
from glip_export.labelling.sources.names import UniqueNames, escaped
from glip_export.labelling.sources.walk import is_hidden

if TYPE_CHECKING:
    import pyarrow

TEXTS = ("json", "txt", "cls")  # members that are carried, by their suffix
LARGEST_TEXT = 65_536  # bytes
_KINDS = (
    (tarfile.TarInfo.issym, "a link"),
    (tarfile.TarInfo.islnk, "a link"),
    (tarfile.TarInfo.isfifo, "a pipe"),
    (tarfile.TarInfo.isdev, "a device"),
)
_MOST_OF_A_KEY = 1000  # members; no data set has so many


@dataclass(frozen=True)
class WebDatasetSource:
    """Members of tar archives with a picture's suffix, and beside them what stands under the same key.

    A picture is called by its archive and its name in it, shard-000.tar/0001.jpg; one whose name stands there twice
    has the numbers of its archive and first byte added. Names in archives are only names: nothing is written by them.
    """

    files: Files

    @property
    def carried(self) -> pyarrow.Schema:
        """The key, and the texts of its members .json, .txt and .cls; None where they are not there or too large."""
        import pyarrow as pa

        return pa.schema([("key", pa.string()), *((suffix, pa.string()) for suffix in TEXTS)])

    def items(self) -> Iterator[Item]:
        """The pictures of each archive in its order; an archive that is damaged is one more, where it is."""
        names = UniqueNames()
        for number, found in enumerate(self.files.found):
            path, problem = as_text(found.path), found.problem
            try:
                for key, member, texts in [] if problem else _members(found.path):
                    source = names.of(escaped(f"{found.relative}/{member.name}"), f"{number}.{member.offset_data}")
                    carried = (escaped(key), *(texts.get(suffix) for suffix in TEXTS))
                    yield Item(source, Where(path, member.offset_data, member.size), carried, _no_file(member))
            except UNREADABLE as error:
                problem = why(error)
            if problem:
                # No member is called so: theirs begin with the archive's name and a /.
                yield Item(f"{escaped(found.relative)}#file", Where(path), (None,) * (1 + len(TEXTS)), problem)

    def count(self) -> None:
        """Only reading all headers could say."""

    def describe(self) -> dict[str, Any]:
        """Its kind, files, and what is carried."""
        return {
            "kind": "webdataset",
            "path": escaped(self.files.base),
            "files": len(self.files.found),
            "carried": self.carried.names,
        }


@dataclass
class _Sample:
    """Members of one key."""

    key: str = ""
    pictures: list[tarfile.TarInfo] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    members: int = 0


def webdataset_source(files: Files) -> WebDatasetSource:
    """The source of these archives. Raises GlipExportError where the first one is compressed."""
    first = next((found for found in files.found if not found.problem), None)
    if first is not None:
        with suppress(OSError), closing(open_archive(first.path)) as file:
            if kind := compression(file):
                raise GlipExportError(
                    f"{first.relative!r} is compressed ({kind}), so that no picture in it can be sought: unpack it"
                )
    return WebDatasetSource(files)


def _members(path: str) -> Iterator[tuple[str, tarfile.TarInfo, dict[str, str]]]:
    """Key, member and texts of each picture in an archive; those before what is damaged, too."""
    suffixes, sample = picture_suffixes(), _Sample()
    with closing(open_archive(path)) as file:
        try:
            for member in headers(file):
                key, suffix = _key(member.name)
                if key != sample.key or sample.members > _MOST_OF_A_KEY:
                    yield from ((sample.key, picture, sample.texts) for picture in sample.pictures)
                    sample = _Sample(key)
                sample.members += 1
                if is_hidden(member.name) or member.isdir():
                    continue
                # The last part of the suffix says what it is: 0001.seg.png is a picture, too.
                if f".{suffix.rpartition('.')[2]}" in suffixes:
                    sample.pictures.append(member)
                elif suffix in TEXTS and member.isreg() and member.size <= LARGEST_TEXT:
                    file.seek(member.offset_data)
                    sample.texts[suffix] = file.read(member.size).decode("utf-8", "replace")
        except UNREADABLE:
            yield from ((sample.key, picture, sample.texts) for picture in sample.pictures)
            raise
        yield from ((sample.key, picture, sample.texts) for picture in sample.pictures)


def _no_file(member: tarfile.TarInfo) -> str:
    """Why a member's bytes do not lie in the archive, "" where they do."""
    if member.issparse():
        return "it is a sparse file in its archive, whose bytes are not in a row: make the archive without --sparse"
    if member.isreg():
        return ""
    # A link's picture is another member, which is an item itself if it is there.
    kind = next((word for is_it, word in _KINDS if is_it(member)), "of an unknown kind")
    return f"it is {kind} in its archive, not a file"


def _key(name: str) -> tuple[str, str]:
    """a/0001.seg.PNG -> a/0001 and seg.png, as WebDataset has them."""
    folder, separator, last = name.removeprefix("./").rpartition("/")
    stem, _, suffix = last.partition(".")
    return folder + separator + stem, suffix.lower()
