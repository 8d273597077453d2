"""Where each annotated picture goes: no two in one file, and none over a file that is not an older one of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from glip_export.cli.detect_inputs import Found
from glip_export.cli.outputs import Files
from glip_export.errors import GlipExportError
from glip_export.results.annotated import annotated_suffix, is_annotated


def annotated_targets(pictures: Sequence[Found], output: Path, kept: Iterable[Path] = ()) -> list[Found]:
    """The pictures, each with a file under `output`: its own name, with JPEG's or PNG's suffix, where that can be had.

    Folders stay as they were given. Where a name is another picture's, it gets a number (x-2.jpg); where the file is
    an input, is in `kept` or was not written by us, it is x-detections.jpg. Raises GlipExportError where `output` is
    a file or would be in one.
    """
    names = _Names(Files([*(picture.path for picture in pictures), *kept]))
    wanted = [(output / picture.relative).with_suffix(annotated_suffix(picture.path)) for picture in pictures]
    # Every picture that can have its own name gets it before others look for one: x-2.jpg stays x-2.jpg.
    targets = [names.take(path) for path in wanted]
    chosen = [target or names.another(path) for target, path in zip(targets, wanted, strict=True)]
    for folder in dict.fromkeys([output, *(target.parent for target in chosen)]):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir():
            raise GlipExportError(f"--output {output}: {there} is a file; name a folder for the annotated pictures")
    return [replace(picture, annotated=target) for picture, target in zip(pictures, chosen, strict=True)]


class _Names:
    def __init__(self, inputs: Files) -> None:
        self._inputs = inputs
        self._taken: set[str] = set()
        self._numbers: dict[Path, Iterator[int]] = {}

    def take(self, path: Path) -> Path | None:
        """The path, taken from now on; None where it cannot be had."""
        key = str(path).casefold()  # one file where the disk takes upper and lower case for the same
        if key in self._taken or not self._is_free(path):
            return None
        self._taken.add(key)
        return path

    def another(self, path: Path) -> Path:
        """A name like that of `path`."""
        if str(path).casefold() not in self._taken:  # so it is a file that must stay
            path = path.with_stem(f"{path.stem}-detections")
            if target := self.take(path):
                return target
        numbers = self._numbers.setdefault(path, count(2))
        return next(target for number in numbers if (target := self.take(path.with_stem(f"{path.stem}-{number}"))))

    def _is_free(self, path: Path) -> bool:
        if path in self._inputs or path.is_symlink():
            return False
        return not path.exists() or is_annotated(path)
