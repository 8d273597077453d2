"""Pictures: read from anywhere, resized, normalised and padded as the original does."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from glip_export.config import ImageConfig
from glip_export.errors import ImageError

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Picture = str | Path | bytes | BinaryIO | Image.Image | U8

MAX_PIXELS = 178_956_970 // 2  # Pillow's own limit, above which it warns of a decompression bomb
MIN_SIDE = 2  # pixels

# What Pillow decodes by itself. Not its other readers: EPS starts Ghostscript, and TGA takes any bytes for a picture.
_FORMATS = ("JPEG", "PNG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "ICO")

_SUFFIXES_OF_PLUGINS = {".avif", ".heic", ".heif"}  # told as unreadable where Pillow lacks the reader, not passed over

_opening = threading.Lock()  # warnings.catch_warnings is not safe among threads


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """B pictures as the network's input."""

    images: F32  # (B, 3, H, W), zero where padded; or runtime.cuda.pictures.Pictures, of which a GPU makes them
    sizes: I64  # (B, 2), h and w of each resized picture
    originals: I64  # (B, 2), h and w of each picture as given


def load_image(source: Picture, max_pixels: int = MAX_PIXELS, *, upright: bool = True, name: str | None = None) -> U8:
    """A path, the bytes of a file, an open file, a PIL image or an array -> uint8 RGB (H, W, 3).

    Upright by EXIF, or as stored; of an animation the first frame; alpha is dropped, as in the original. An array is
    uint8 (H, W, 3) or (H, W) and may be returned itself. Raises ImageError, in which the picture is called `name` or
    what `picture_name` says, for what is no picture, damaged, or of a size out of bounds.
    """
    name = picture_name(source) if name is None else name
    if isinstance(source, np.ndarray):
        return _from_array(source, name, max_pixels)
    if isinstance(source, Image.Image):
        return np.array(_decode(source, name, max_pixels, upright))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return np.array(_read(io.BytesIO(source), name, max_pixels, upright))
    if isinstance(source, (str, os.PathLike)):
        return np.array(_from_path(Path(source), name, max_pixels, upright))
    if hasattr(source, "read"):
        return np.array(_read(source, name, max_pixels, upright))
    raise ImageError(f"a picture is a path, a PIL image or a uint8 array, not {type(source).__name__}")


def open_image(file: BinaryIO, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Pillow's image, of which only the header is read. Raises ImageError, in which it is called `name`."""
    try:
        with _opening, warnings.catch_warnings():
            # Pillow warns of decompression bombs (our limit is checked below, before anything is decoded) and of every
            # damaged tag: a person is to read one line.
            warnings.simplefilter("ignore")
            Image.init()
            return Image.open(file, formats=[known for known in _FORMATS if known in Image.OPEN])
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture that can be read (JPEG, PNG, WebP, TIFF, ...)") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} is too large: more than {max_pixels} pixels") from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise ImageError(f"{name} cannot be read: {_reason(error)}") from None


def load_resized(
    path: Path, config: ImageConfig, fixed_size: tuple[int, int] | None = None
) -> tuple[U8, tuple[int, int]]:
    """`resize` of what `load_image` gives, and the size (h, w) before: with no array between, in half the time."""
    name = picture_name(path)
    image = _from_path(path, name, MAX_PIXELS, upright=True)
    original = image.size[1], image.size[0]
    height, width = fitted_shape(*original, config, fixed_size, name)
    return np.asarray(_resize_image(image, height, width)), original


def picture_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of files that `load_image` may read."""
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in _FORMATS}
    return frozenset(known | _SUFFIXES_OF_PLUGINS)


def picture_name(source: object, number: int | None = None) -> str:
    """What an error calls a picture: its file's name, else "picture 3" if it has a number, else "the given array"."""
    if isinstance(source, (str, os.PathLike)):
        return repr(str(Path(source)))
    given = getattr(source, "filename" if isinstance(source, Image.Image) else "name", None)
    if isinstance(given, (str, os.PathLike)) and str(given):
        return repr(str(given))
    if number is not None:
        return f"picture {number}"
    if isinstance(source, np.ndarray):
        return "the given array"
    if isinstance(source, Image.Image):
        return "the given PIL image"
    return "the given bytes" if isinstance(source, (bytes, bytearray, memoryview)) else "the given file"


def resize_shape(height: int, width: int, config: ImageConfig, name: str = "the picture") -> tuple[int, int]:
    """(h, w) after the original's resize: short side min_size, unless the long side would exceed max_size.

    Raises ImageError, in which the picture is called `name`, where it is so narrow that a side would vanish.
    """
    short, long = min(height, width), max(height, width)
    size = config.min_size
    if long / short * size > config.max_size:
        size = round(config.max_size * short / long)  # banker's rounding, as the original's int(round())
    if size < 1:
        raise ImageError(f"{name} is {width} x {height} pixels, too narrow: resized, its short side would vanish")
    if short == size:
        return height, width
    if width < height:
        return int(size * height / width), size
    return size, int(size * width / height)


def fitted_shape(
    height: int, width: int, config: ImageConfig, fixed_size: tuple[int, int] | None = None, name: str = "the picture"
) -> tuple[int, int]:
    """(h, w) that `resize` brings a picture to. Raises ImageError as `resize_shape`."""
    return _fit(resize_shape(height, width, config, name), fixed_size)


def preprocess(images: Sequence[U8], config: ImageConfig, fixed_size: tuple[int, int] | None = None) -> ImageBatch:
    """uint8 RGB pictures (h, w, 3) -> one batch: resized, BGR, normalised, then padded with zeros at bottom and right.

    Padded to the largest of the batch, rounded up to size_divisor, as padding changes the network's results; or, for
    an engine of one input size, shrunk further to fit into `fixed_size` (H, W) and padded to it.
    """
    if not images:
        raise ImageError("no picture was given")
    originals = [(image.shape[0], image.shape[1]) for image in images]
    names = [picture_name(image, number if len(images) > 1 else None) for number, image in enumerate(images, start=1)]
    resized = [resize(image, config, fixed_size, name) for image, name in zip(images, names, strict=True)]
    return pad(resized, originals, config, fixed_size)


def resize(image: U8, config: ImageConfig, fixed_size: tuple[int, int] | None = None, name: str = "the picture") -> U8:
    """uint8 RGB (H, W, 3) -> the network's size (h, w, 3), still uint8: the first half of `preprocess`.

    Raises ImageError as `resize_shape`.
    """
    return _resize(image, *fitted_shape(image.shape[0], image.shape[1], config, fixed_size, name))


def padded_shape(
    resized: Sequence[tuple[int, int]], config: ImageConfig, fixed_size: tuple[int, int] | None = None
) -> tuple[int, int]:
    """(H, W) that a batch of resized pictures (h, w) is padded to."""
    if fixed_size is not None:
        return fixed_size
    divisor = config.size_divisor
    height, width = (-(-max(sides) // divisor) * divisor for sides in zip(*resized, strict=True))
    return height, width


def pad(
    resized: Sequence[U8],
    originals: Sequence[tuple[int, int]],
    config: ImageConfig,
    fixed_size: tuple[int, int] | None = None,
) -> ImageBatch:
    """Resized pictures, and the sizes (h, w) they had before, as one batch: the second half of `preprocess`."""
    sizes = [(image.shape[0], image.shape[1]) for image in resized]
    batch = np.zeros((len(resized), 3, *padded_shape(sizes, config, fixed_size)), np.float32)
    for image, (h, w), out in zip(resized, sizes, batch, strict=True):
        _normalize(image, config, out[:, :h, :w])
    return ImageBatch(batch, np.array(sizes, np.int64), np.array(originals, np.int64))


def normalized_bytes(config: ImageConfig) -> F32:
    """What each byte becomes in each channel of the network's input: (3, 256)."""
    every = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    values = np.empty((3, 1, 256), np.float32)
    _normalize(every, config, values)
    return values[:, 0]


def restore_boxes(boxes: F32, resized: tuple[int, int], original: tuple[int, int]) -> F32:
    """Boxes (N, 4) xyxy from a resized picture's pixels to the original's, both sizes as (h, w)."""
    y, x = original[0] / resized[0], original[1] / resized[1]
    return boxes * np.array([x, y, x, y], np.float32)


def _fit(size: tuple[int, int], limit: tuple[int, int] | None) -> tuple[int, int]:
    """The size (h, w) shrunk, sides in proportion, until it fits."""
    if limit is None:
        return size
    (h, w), (most_h, most_w) = size, limit
    if h <= most_h and w <= most_w:
        return size
    if most_h * w < most_w * h:  # the height decides; in integers, for a product of floats may miss the limit by one
        return most_h, max(w * most_h // h, 1)
    return max(h * most_w // w, 1), most_w


def _resize(image: U8, height: int, width: int) -> U8:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(_resize_image(Image.fromarray(image), height, width))


def _resize_image(image: Image.Image, height: int, width: int) -> Image.Image:
    """Pillow's bilinear filter, which is antialiased: OpenCV's and most GPU resizers give other pixels."""
    if image.size == (width, height):
        return image
    if image.height - height > max(2 * (image.width - width), 0):
        # Pillow goes down first here since release 13, which differs by one of 255 in places; the original across.
        image = image.resize((width, image.height), Image.Resampling.BILINEAR)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _normalize(image: U8, config: ImageConfig, out: F32) -> None:
    """(pixel - mean) / std of an RGB picture (h, w, 3) into `out` (3, h, w), in float32 like torchvision."""
    for channel in range(3):
        if config.bgr255:
            # The original's v / 255 * 255 is v for all 256 values in float32, so both are left out.
            pixels: U8 | F32 = image[..., 2 - channel]
        else:
            pixels = np.divide(image[..., channel], np.float32(255), dtype=np.float32)
        np.subtract(pixels, np.float32(config.mean[channel]), out=out[channel], dtype=np.float32)
        out[channel] /= np.float32(config.std[channel])


def _from_path(path: Path, name: str, max_pixels: int, upright: bool) -> Image.Image:
    try:
        if path.is_dir():
            raise ImageError(f"{name} is a directory, not a picture")
        if path.exists() and not path.is_file():
            raise ImageError(f"{name} is not a regular file")
        with path.open("rb") as file:
            return _read(file, name, max_pixels, upright)
    except FileNotFoundError:
        raise ImageError(f"the picture {name} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageError(f"the picture {name} cannot be opened: {_reason(error)}") from None


def _from_array(array: U8, name: str, max_pixels: int) -> U8:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"{name}, of {array.dtype} {array.shape}, is no picture: give uint8 RGB of shape (height, width, 3) "
            "or grey of shape (height, width)"
        )
    _check_size(array.shape[1], array.shape[0], name, max_pixels)
    return array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2)


def _read(file: BinaryIO, name: str, max_pixels: int, upright: bool) -> Image.Image:
    with open_image(file, name, max_pixels) as image:
        return _decode(image, name, max_pixels, upright)


def _decode(image: Image.Image, name: str, max_pixels: int, upright: bool) -> Image.Image:
    """Decoded, RGB; the given image itself where it is so already."""
    _check_size(*image.size, name, max_pixels)
    try:
        image.load()
        _check_size(*image.size, name, max_pixels)  # some formats learn their size only now
        return _to_rgb(_upright(image) if upright else image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise ImageError(f"{name} cannot be decoded: {_reason(error)}") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # the pixels of a picture with damaged EXIF are as good as any
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_to_uint8(np.asarray(image), sixteen_bit=image.mode.startswith("I;16")))
    if image.mode == "P" and "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]  # dropped all the same, but with a warning
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_uint8(values: NDArray[np.generic], sixteen_bit: bool) -> U8:
    """Scale deep grey to 8 bits; Pillow's own conversion clips at 255, which turns a 16-bit picture white.

    Where the mode does not tell white, it is the least of 1 (floats), 255 and 65535 that no pixel exceeds, else the
    brightest pixel.
    """
    pixels = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    brightest = float(pixels.max())
    whites = [1.0] if values.dtype.kind == "f" else []
    white = 65535.0 if sixteen_bit else next((w for w in [*whites, 255.0, 65535.0] if brightest <= w), brightest)
    scaled: U8 = np.clip(np.rint(pixels * np.float32(255 / white)), 0, 255).astype(np.uint8)
    return scaled


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name} is {width} x {height} pixels, too small: each side needs {MIN_SIDE} or more")
    if width * height > max_pixels:
        raise ImageError(f"{name} is too large: {width} x {height} is more than {max_pixels} pixels")


def _reason(error: BaseException) -> str:
    """The error's own words on one line."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split())
