"""What a command writes never falls on what it reads: told before any work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from glip_export.errors import GlipExportError


class Files:
    """A set of files, known by where they are and by what they are: through links too, symbolic or hard."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._places: set[str] = set()
        self._identities: set[tuple[int, int] | None] = set()
        for path in paths:
            self.add(path)

    def add(self, path: Path) -> None:
        """Adds a file, whether it exists or not."""
        self._places.add(os.path.realpath(path))
        if (identity := _identity(path)) is not None:
            self._identities.add(identity)

    def __contains__(self, path: Path) -> bool:
        return os.path.realpath(path) in self._places or _identity(path) in self._identities


def check_outputs(
    outputs: Mapping[str, Path | None], inputs: Iterable[Path | str | None], replaced: Mapping[str, Path] | None = None
) -> None:
    """Raises GlipExportError where an output is an input, through whatever links, or two outputs are one file.

    outputs: by the option that named each. replaced: folders that are replaced whole, so that no input may be inside.
    Devices and pipes (/dev/null) are left alone: nothing in them is lost.
    """
    paths = [Path(path) for path in inputs if path is not None]
    known = Files(paths)
    written: dict[str, Path] = {}
    for option, path in outputs.items():
        if path is None or (path.exists() and not path.is_file() and not path.is_dir()):
            continue
        if path in known:
            raise GlipExportError(f"{option} {path} is a file that this command reads: name another file")
        for other, before in written.items():
            if path in Files([before]):
                raise GlipExportError(f"{option} {path} is the file of {other} too: name another file")
        written[option] = path
    for option, folder in (replaced or {}).items():
        inside = [path for path in paths if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))]
        if inside:
            raise GlipExportError(f"{option} {folder} would be replaced, and {inside[0]} is in it: name another folder")


def bundle_files(folder: Path) -> list[Path]:
    """The manifest of a bundle, the files that it lists, and the checkpoint that it came from; a baked model's file.

    What cannot be read is for `Bundle.open` to tell.
    """
    from glip_export.bundle.baked_file import is_baked
    from glip_export.bundle.files import MANIFEST

    if is_baked(folder):
        return [folder]
    manifest = folder / MANIFEST
    try:
        content = json.loads(manifest.read_bytes())
        weights = Path(content["weights"]["path"])
        return [manifest, *(folder / name for name in content["files"]), weights, *_shards(weights)]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return [manifest]


def _shards(weights: Path) -> list[Path]:
    if not weights.name.endswith(".safetensors.index.json"):
        return []  # without loading torch
    from glip_export.checkpoint import weights_files

    try:
        return weights_files(weights)
    except GlipExportError:
        return []


def _identity(path: Path) -> tuple[int, int] | None:
    from glip_export.bundle.files import file_identity  # late: what opens bundles is not for --help

    return file_identity(path)
