"""Packaged photos as pictures that the Detector's own preprocessing turns into one exact network input."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import resources

import numpy as np
from PIL import Image

from glip_export.config import ImageConfig
from glip_export.errors import GlipExportError
from glip_export.image import U8, load_image, resize_shape

PHOTOS = ("cat", "coffee", "astronaut", "rocket")
PHOTO_SHORT, PHOTO_LONG = 427, 640  # pixels; the commonest size among COCO's pictures
SMALLEST = 64  # pixels of a side: below, P6 and P7 are a single cell


def default_size(image: ImageConfig) -> tuple[int, int]:
    """H, W that GLIP's own resize and padding give for a landscape picture of COCO's size: 800x1216 for 800/1333."""
    height, width = resize_shape(PHOTO_SHORT, PHOTO_LONG, image)
    divisor = image.size_divisor
    return math.ceil(height / divisor) * divisor, math.ceil(width / divisor) * divisor


def check_size(size: tuple[int, int], image: ImageConfig, static: tuple[int, int] | None) -> tuple[int, int]:
    """The size (H, W), if the network can have it as its padded input; else GlipExportError."""
    if static is not None and tuple(size) != tuple(static):
        raise GlipExportError(f"this bundle is for {static[0]}x{static[1]} only, not for {size[0]}x{size[1]}")
    if any(side % image.size_divisor or side < SMALLEST for side in size):
        raise GlipExportError(
            f"--image-size {size[0]}x{size[1]}: each side is a multiple of {image.size_divisor}, {SMALLEST} or more, "
            "as the padded network input is"
        )
    return size


def resize_to(image: ImageConfig, size: tuple[int, int]) -> ImageConfig:
    """The configuration whose resize makes `make_pictures`' pictures fill the padded size (H, W)."""
    return replace(image, min_size=min(size), max_size=max(image.max_size, *size))


def make_pictures(count: int, size: tuple[int, int]) -> list[U8]:
    """`count` uint8 RGB pictures with a short side of 427 pixels, which `resize_to` brings to the padded (H, W).

    The long side stops half a stride short of W (or H), as it does in 640x427 -> 1199x800 -> 1216x800.
    """
    short, long = min(size), max(size)
    source_long = round(PHOTO_SHORT * max(long - 16, short) / short)
    height, width = (PHOTO_SHORT, source_long) if size[1] >= size[0] else (source_long, PHOTO_SHORT)
    photos = [_photo(name, height, width) for name in PHOTOS[:count]]
    return [photos[index % len(photos)] for index in range(count)]


def _photo(name: str, height: int, width: int) -> U8:
    """A packaged photo's middle, cropped to the aspect and resized to (height, width)."""
    picture = load_image((resources.files("glip_export") / "data" / "pictures" / f"{name}.jpg").read_bytes())
    share = min(picture.shape[0] / height, picture.shape[1] / width)
    h, w = max(int(height * share), 1), max(int(width * share), 1)
    top, left = (picture.shape[0] - h) // 2, (picture.shape[1] - w) // 2
    crop = Image.fromarray(np.ascontiguousarray(picture[top : top + h, left : left + w]))
    return np.asarray(crop.resize((width, height), Image.Resampling.BICUBIC))
