"""The gallery: pictures and their detections in one HTML file that needs neither a server nor a network."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, TextIO

from PIL import Image

from glip_export.bundle.files import atomic_text
from glip_export.errors import GlipExportError
from glip_export.image import U8
from glip_export.results.detections import Detections

LONGEST_SIDE = 1280  # pixels; larger pictures are scaled down
JPEG_QUALITY = 85


@dataclass(frozen=True, eq=False)
class GalleryPicture:
    """One picture of a gallery: its name, RGB pixels (H, W, 3), and what was found, in those pixels."""

    name: str
    pixels: U8
    detections: Detections


@dataclass(frozen=True)
class GalleryFigure:
    """One picture as it stands in the file, and its entry of the data."""

    html: str
    result: dict[str, Any]


def write_gallery(
    target: Path | str, pictures: Iterable[GalleryPicture], prompt: str, source: str, threshold: float = 0.5
) -> None:
    """Writes one self-contained HTML file: all boxes of all pictures, a score slider, a filter by name.

    All pictures are answers to one prompt. source: a line on where the boxes come from. threshold: where the slider
    starts, 0 to 1. Raises GlipExportError where `target` cannot be written.
    """
    with gallery(target, prompt, source, threshold) as add:
        for picture in pictures:
            add(gallery_figure(picture))


@contextmanager
def gallery(
    target: Path | str, prompt: str, source: str, threshold: float = 0.5
) -> Iterator[Callable[[GalleryFigure], None]]:
    """As `write_gallery`, one figure after the other, none of which is kept in memory."""
    style = _asset("serving/page/boxes.css") + _asset("data/gallery/gallery.css")
    script = "".join(_asset(f"serving/page/{name}") for name in ("boxes.js", "lists.js"))
    script += _asset("data/gallery/gallery.js")
    values = {
        "title": html.escape(prompt),
        "prompt": html.escape(prompt),
        "source": html.escape(source),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
    }
    template = _asset("data/gallery/gallery.html")
    before, after = template.split("<!-- figures -->")
    head, middle, tail = (Template(part).substitute(values) for part in (before, *after.split("$data")))
    with atomic_text(target) as write, _temporary_text() as results:
        classes: list[list[str]] = []  # of the first picture, as of all

        def add(figure: GalleryFigure) -> None:
            write(figure.html)
            with _told():
                results.write(f"{',' if classes else ''}{_json_in_html(figure.result)}")
            if not classes:
                classes.append(figure.result["classes"])

        write(head)
        yield add
        write(middle)
        document = {"prompt": prompt, "threshold": threshold, "classes": classes[0] if classes else []}
        write(_json_in_html(document).removesuffix("}") + ',"results":[')
        with _told():
            results.seek(0)
            while part := results.read(1 << 20):
                write(part)
        write("]}" + tail)


def gallery_figure(picture: GalleryPicture) -> GalleryFigure:
    """A picture as `gallery` takes it: scaled down and encoded; for any thread."""
    return GalleryFigure(_figure(picture), {"file": picture.name, **picture.detections.to_dict()})


@contextmanager
def _temporary_text() -> Iterator[TextIO]:
    """Where the boxes of all pictures wait: in the page they come after the figures."""
    with _told():
        file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        raise GlipExportError(f"cannot keep the gallery's boxes in {folder}: {error.strerror or error}") from error


def _figure(picture: GalleryPicture) -> str:
    name = html.escape(picture.name)
    height, width = picture.detections.image_size
    return (
        '<figure class="card"><div class="view"><div class="picture">'
        f'<img src="{_data_uri(picture.pixels)}" width="{width}" height="{height}" alt="{name}" decoding="async">'
        '<div class="boxes" aria-hidden="true"></div></div></div>'
        f'<figcaption><span class="file" dir="auto" title="{name}">{name}</span>'
        '<span class="boxes-shown"></span></figcaption>'
        f'<ol class="list" aria-label="Detections in {name}; arrow keys move through them"></ol></figure>\n'
    )


def _data_uri(pixels: U8) -> str:
    """The picture as a JPEG in a URI, its long side at most LONGEST_SIDE."""
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, format="JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")


def _json_in_html(document: object) -> str:
    """JSON that no name in it can end: neither </script> nor <!-- may stand in a script element."""
    text = json.dumps(document, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    """For the Content-Security-Policy: only this script and this style run, and nothing is fetched."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _asset(path: str) -> str:
    return files("glip_export").joinpath(*path.split("/")).read_text(encoding="utf-8")
