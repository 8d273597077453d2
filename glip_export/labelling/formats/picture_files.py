"""Pictures in a data set's own folder: linked, copied, or written anew where a trainer would read them otherwise."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from PIL import Image

from glip_export.errors import ImageError
from glip_export.image import load_image
from glip_export.labelling.formats.picture_header import Header, read_header
from glip_export.labelling.reading import read_picture
from glip_export.labelling.shards import Labelled

# What Ultralytics trains on, of what we read, with the suffixes it goes by; all other formats become PNG.
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "JPEG2000": (".jp2",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
_END_OF_JPEG = b"\xff\xd9"


def place_picture(labelled: Labelled, stem: Path, how: Literal["link", "copy"]) -> Path:
    """Puts a picture at `stem` and the suffix of what it holds, which it returns. The picture itself is only read.

    A local file is linked where `how` says so; other bytes are written as they are. Written anew, as an upright PNG,
    is what trainers do not read, or read turned otherwise than its boxes are. Raises ImageError for what cannot be
    read any more or is not of the size that was labelled; nothing is there then.
    """
    picture = read_picture(labelled.where, labelled.source)
    if not isinstance(picture, Path):
        assert isinstance(picture, (bytes, io.BytesIO))
        return _place(io.BytesIO(picture) if isinstance(picture, bytes) else picture, None, labelled, stem)
    try:
        file = picture.open("rb")
    except OSError as error:
        raise ImageError(f"the picture {labelled.source!r} cannot be opened: {error.strerror or error}") from None
    with file:
        return _place(file, picture if how == "link" else None, labelled, stem)


def _place(file: BinaryIO, link: Path | None, labelled: Labelled, stem: Path) -> Path:
    header = read_header(file, repr(labelled.source))
    suffix = _own_suffix(header, labelled.source)
    if suffix is None or _is_turned(header):
        return _write_png(file, labelled, stem)
    on_its_side = header.orientation in range(5, 9)
    _check_size(labelled, *((header.height, header.width) if on_its_side else (header.width, header.height)))
    target = stem.with_name(stem.name + suffix)
    if link is not None and not (header.format == "JPEG" and _is_cut(file)):
        in_folder(target, lambda: os.symlink(os.path.abspath(link), target))
    else:
        in_folder(target, lambda: _copy(file, target))
    return target


def in_folder(target: Path, write: Callable[[], object]) -> None:
    """Writes a file whose folder may not be there yet."""
    try:
        write()
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        write()


def _copy(file: BinaryIO, target: Path) -> None:
    with target.open("xb") as out:
        file.seek(0)
        shutil.copyfileobj(file, out, 1 << 20)


def _own_suffix(header: Header, source: str) -> str | None:
    """The source's own suffix where it fits what is in the file, else the usual one; None where there is none."""
    suffixes = _SUFFIXES.get(header.format)
    if suffixes is None:
        return None
    own = os.path.splitext(source)[1]
    return own if own.lower() in suffixes else suffixes[0]


def _is_turned(header: Header) -> bool:
    """Whether EXIF turns the picture in a way that not all versions of OpenCV and Ultralytics heed as we do."""
    # OpenCV turns JPEGs upright. Ultralytics takes the sides' order from EXIF too, before 8.4 for 6 and 8 only.
    heeded = {1, 2, 3, 4, 6, 8} if header.format == "JPEG" else {1}
    return header.orientation not in heeded and header.orientation in range(1, 9)


def _is_cut(file: BinaryIO) -> bool:
    """Whether a JPEG has no end: Ultralytics repairs such a file in its place, older versions through a link."""
    file.seek(-len(_END_OF_JPEG), os.SEEK_END)
    return file.read() != _END_OF_JPEG


def _write_png(file: BinaryIO, labelled: Labelled, stem: Path) -> Path:
    file.seek(0)
    pixels = load_image(file, name=repr(labelled.source))
    _check_size(labelled, pixels.shape[1], pixels.shape[0])
    target = stem.with_name(f"{stem.name}.png")
    in_folder(target, lambda: Image.fromarray(pixels).save(target, format="PNG"))
    return target


def _check_size(labelled: Labelled, width: int, height: int) -> None:
    answer = labelled.answer
    if (width, height) != (answer.width, answer.height):
        raise ImageError(
            f"{labelled.source!r} is {width} x {height} pixels and was {answer.width} x {answer.height} when labelled"
        )
