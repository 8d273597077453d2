"""Which pictures of a folder a calibration takes."""

from __future__ import annotations

import random
from pathlib import Path

from glip_export.errors import GlipExportError
from glip_export.image import picture_suffixes


def calibration_pictures(folder: Path, most: int, seed: int = 0) -> list[Path]:
    """At most so many pictures of a folder and those in it, chosen by the seed, in order of their names.

    Raises GlipExportError for what is no folder, or holds no picture.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise GlipExportError(f"--calibration {folder} {what}: name a folder of pictures such as the model will see")
    suffixes = picture_suffixes()
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not found:
        raise GlipExportError(f"--calibration {folder} holds no picture: name a folder of JPEG, PNG, WebP, ... files")
    chosen = random.Random(seed).sample(range(len(found)), min(most, len(found)))
    return [found[place] for place in sorted(chosen)]
