"""Annotated pictures as files: of the given picture's kind, and marked, so that they replace each other only."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from glip_export.results.pictures import write_picture

JPEG_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"))
JPEG_QUALITY = 90
MARK = b"annotated by glip-export"
_HEAD_BYTES = 4096  # the mark stands before the pixels


def annotated_suffix(path: Path) -> str:
    """The suffix of the annotated picture: .jpg of a JPEG, .png of any other."""
    return ".jpg" if path.suffix.lower() in JPEG_SUFFIXES else ".png"


def save_annotated(image: Image.Image, target: Path) -> None:
    """Writes an RGB picture as JPEG or PNG, by the target's suffix; raises GlipExportError where it cannot."""
    if target.suffix == ".jpg":
        write_picture(target, image, "JPEG", lasting=False, quality=JPEG_QUALITY, comment=MARK)
    else:
        info = PngInfo()
        info.add_text("Comment", MARK.decode("ascii"))
        # compress_level: 6 takes five times as long.
        write_picture(target, image, "PNG", lasting=False, compress_level=1, pnginfo=info)


def is_annotated(path: Path) -> bool:
    """Whether the file is a picture that `save_annotated` wrote."""
    try:
        with path.open("rb") as file:
            return MARK in file.read(_HEAD_BYTES)
    except OSError:
        return False
