"""The gallery: pictures and their detections in one HTML file that needs neither a server nor a network."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from PIL import Image

from glip_export.bundle.files import atomic_path
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


def write_gallery(
    target: Path | str, pictures: Sequence[GalleryPicture], prompt: str, source: str, threshold: float = 0.5
) -> None:
    """Writes one self-contained HTML file: all boxes of all pictures, a score slider, a filter by name.

    All pictures are answers to one prompt. source: a line on where the boxes come from. threshold: where the slider
    starts, 0 to 1. Raises GlipExportError where `target` cannot be written.
    """
    style = _asset("serving/page/boxes.css") + _asset("data/gallery/gallery.css")
    script = "".join(_asset(f"serving/page/{name}") for name in ("boxes.js", "lists.js"))
    script += _asset("data/gallery/gallery.js")
    document = {
        "prompt": prompt,
        "threshold": threshold,
        "classes": list(pictures[0].detections.classes) if pictures else [],
        "results": [{"file": picture.name, **picture.detections.to_dict()} for picture in pictures],
    }
    values = {
        "title": html.escape(prompt),
        "prompt": html.escape(prompt),
        "source": html.escape(source),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "data": _json_in_html(document),
    }
    template = _asset("data/gallery/gallery.html")
    head, tail = (Template(part).substitute(values) for part in template.split("<!-- figures -->"))
    with (
        atomic_path(target) as temporary,
        temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file,
    ):
        file.write(head)
        for picture in pictures:
            file.write(_figure(picture))
        file.write(tail)


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
