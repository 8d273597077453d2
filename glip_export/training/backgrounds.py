"""What stands behind the objects: crops of free photos and textures, gradients and noise."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from glip_export.errors import GlipExportError

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

# Shipped with scikit-image: CC0 but for the two by NASA, which are in the public domain.
PHOTOS = ("brick.png", "grass.png", "gravel.png", "coffee.png", "chelsea.png", "hubble_deep_field.jpg", "astronaut.png")


def background(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A picture of that size without objects in it: of three, one a photo's crop, one a gradient, one noise."""
    return (_photo, _gradient, _noise)[int(rng.integers(3))](rng, height, width)


def _photo(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    photo = _photos()[int(rng.integers(len(PHOTOS)))]
    side = int(rng.integers(96, min(photo.size) // 2))  # a small part, so that nothing on the photo stays whole
    x, y = (int(rng.integers(length - side)) for length in photo.size)
    crop = photo.crop((x, y, x + side, y + side)).resize((width, height), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        crop = crop.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 6))))
    tint = rng.uniform(0.6, 1.25, 3).astype(np.float32)  # the textures are grey
    return _picture(np.asarray(crop, np.float32) * tint + np.float32(rng.uniform(-25, 25)))


def _gradient(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    position = (np.cos(angle) * x / width + np.sin(angle) * y / height).astype(np.float32)
    position = (position - position.min()) / np.ptp(position)
    first, second = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    return _picture(first + (second - first) * position[..., None])


def _noise(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Octaves of coloured noise: clouds, or something like foliage."""
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(int(rng.integers(2, 7))):
        cells = rng.normal(0, 1, (2 + 2**octave, 2 + 2**octave, 3)).astype(np.float32)
        if rng.random() < 0.5:
            cells[:] = cells.mean(-1, keepdims=True)
        layers = [
            Image.fromarray(cells[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            for channel in range(3)
        ]
        total += np.stack([np.asarray(layer) for layer in layers], -1) / np.float32(1.6**octave)
    spread, centre = rng.uniform(15, 55), rng.uniform(40, 215, 3)
    return _picture((total * spread + centre).astype(np.float32))


def _picture(values: F32) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


@cache
def _photos() -> tuple[Image.Image, ...]:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise GlipExportError("the scenes need scikit-image's photos: pip install 'glip-export[train]'")
    folder = Path(spec.origin).parent / "data"
    return tuple(Image.open(folder / name).convert("RGB") for name in PHOTOS)
