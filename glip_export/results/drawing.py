"""Boxes and their texts on a picture of any size."""

from __future__ import annotations

import colorsys
import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]  # xyxy, inclusive pixels
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_MIN_FONT = 10  # pixels; below, Pillow's font is hard to read

# Saturation and value. With nine labels a tone, the 80 of COCO lie farthest from each other.
_TONES = ((0.85, 1.0), (0.6, 0.75), (0.35, 1.0), (1.0, 0.6), (0.3, 0.8))


def draw_boxes(
    picture: NDArray[np.uint8], boxes: NDArray[np.float32], labels: NDArray[np.int64], texts: Sequence[str]
) -> Image.Image:
    """A copy of the RGB picture (H, W, 3) with boxes (N, 4) xyxy, each with its text, in the colour of its label.

    The first box matters most: it chooses the place of its text first and is drawn last. Lines and letters grow with
    the picture; texts stay inside it, shortened where they must.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    width, height = image.size
    line = max(1, round(min(width, height) / 200))
    font = ImageFont.load_default(_font_size(width, height))
    outlines = [_inside(box, width, height) for box in boxes]
    colors = [class_color(int(label)) for label in labels]
    draw = ImageDraw.Draw(image)
    for outline, color in reversed(list(zip(outlines, colors, strict=True))):
        draw.rectangle(outline, outline=color, width=line)
    tags = []
    taken: list[Box] = []
    for outline, color, text in zip(outlines, colors, texts, strict=True):
        text = _shorten(text, font, width)
        tag = _place(outline, _tag_size(text, font), (width, height), taken)
        taken.append(tag)
        tags.append((tag, color, text))
    for tag, color, text in reversed(tags):
        if text:
            draw.rectangle(tag, fill=color)
            top, _ = _line_extent(font)
            place = (tag[0] + _pad(font), tag[1] + _pad(font) - top)
            draw.text(place, text, fill=_contrast(color), font=font, anchor="la")
    return image


def class_color(label: int) -> Color:
    """A colour for each label: hues a golden angle apart, every nine in another tone."""
    hue = label * 0.618034 % 1
    saturation, value = _TONES[label // 9 % len(_TONES)]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _font_size(width: int, height: int) -> int:
    """Pixels: a fixed share of the picture, but on a narrow strip no more than a quarter of its short side."""
    return max(_MIN_FONT, round(min(0.026 * math.sqrt(width * height), min(width, height) / 4)))


def _inside(box: NDArray[np.float32], width: int, height: int) -> Box:
    """The box in whole pixels, no part of it outside the picture."""
    last = np.array([width - 1, height - 1, width - 1, height - 1])
    x1, y1, x2, y2 = (int(side) for side in np.clip(np.rint(np.nan_to_num(box)), 0, last))
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _shorten(text: str, font: Font, width: int) -> str:
    """The text on one line; without its score, or its end, where the picture is too narrow for them."""
    text = " ".join(_plain(text[: width + 8]).split())  # no letter is narrower than a pixel
    name = text.rsplit(" ", 1)[0]
    for whole in (text, name):
        if _tag_size(whole, font)[0] <= width:
            return whole
    kept = bisect_right(range(1, len(name)), width, key=lambda length: _tag_size(name[:length] + "…", font)[0])
    return name[:kept] + "…" if kept else ""


def _plain(text: str) -> str:
    """Without accents: Pillow's built-in font has none, and draws a box for what it lacks."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def _tag_size(text: str, font: Font) -> tuple[int, int]:
    """Width and height of a text with its margin; the height is the same for all texts."""
    left, _, right, _ = font.getbbox(text, anchor="la")
    top, bottom = _line_extent(font)
    return round(right - min(left, 0)) + 2 * _pad(font), bottom - top + 2 * _pad(font)


def _line_extent(font: Font) -> tuple[int, int]:
    """Top and bottom of a line of letters, in pixels below its anchor."""
    _, top, _, bottom = font.getbbox("bg", anchor="la")
    return round(top), round(bottom)


def _pad(font: Font) -> int:
    return max(1, round(getattr(font, "size", 10) / 8))


def _place(outline: Box, size: tuple[int, int], picture: tuple[int, int], taken: Sequence[Box]) -> Box:
    """Above the box, inside its top, inside its bottom or below it: where it hides the least of the texts before."""
    (x1, y1, _, y2), (tag_width, tag_height), (width, height) = outline, size, picture
    x = max(0, min(x1, width - tag_width))
    choices = []
    for y in (y1 - tag_height, y1, y2 - tag_height + 1, y2 + 1):
        y = max(0, min(y, height - tag_height))
        choices.append((x, y, x + tag_width - 1, y + tag_height - 1))
    return min(choices, key=lambda tag: sum(_overlap(tag, other) for other in taken))


def _overlap(one: Box, two: Box) -> int:
    wide = min(one[2], two[2]) - max(one[0], two[0]) + 1
    high = min(one[3], two[3]) - max(one[1], two[1]) + 1
    return max(wide, 0) * max(high, 0)


def _contrast(color: Color) -> Color:
    """Black or white, whichever reads better on the colour (Rec. 709 luminance of linear light)."""
    red, green, blue = ((part / 255) ** 2.2 for part in color)
    # 0.18: where the contrast ratios (WCAG 2) against black and white are equal.
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else (255, 255, 255)
