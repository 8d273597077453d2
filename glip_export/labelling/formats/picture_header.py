"""What a picture's first bytes say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from PIL import ExifTags

from glip_export.image import open_image


@dataclass(frozen=True)
class Header:
    """Of a picture as stored: Pillow's word for its format, pixels, and EXIF's orientation, 1 where upright."""

    format: str
    width: int
    height: int
    orientation: int


def read_header(file: BinaryIO, name: str) -> Header:
    """The header, with nothing decoded. Raises ImageError, in which the picture is called `name`."""
    with open_image(file, name) as image:
        try:
            # Of a PNG without EXIF at its front Pillow would decode all pixels, to look behind them.
            known = image.format != "PNG" or "exif" in image.info
            orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1)) if known else 1
        except Exception:  # Pillow's readers raise nearly anything on damaged EXIF
            orientation = 1
        return Header(str(image.format), image.width, image.height, orientation)
