"""Requests for detections, one picture and one prompt each, and their answers; `request_batch` runs them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from glip_export.errors import GlipExportError
from glip_export.image import U8, Picture
from glip_export.names import Name
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.runtime.encoded import EncodedImages


class DroppedError(GlipExportError):
    """The answer is no longer wanted, so it was not computed."""


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A picture decoded and resized, of any number of requests."""

    key: str  # SHA-256 of what was given
    pixels: U8  # (h, w, 3), resized
    original: tuple[int, int]  # h, w as given


@dataclass(frozen=True, eq=False)
class Request:
    """One picture and what to find in it.

    image: anything that `load_image` takes; or what `BatchDetector.prepare` or its cache gave. wanted: asked right
    before each stage; where it says False the request is dropped.
    """

    image: Picture | PreparedImage | EncodedImages
    prompt: str | Sequence[Name] | Prompt
    threshold: float = 0.0
    wanted: Callable[[], bool] = lambda: True


@dataclass(eq=False)
class Answer:
    """What became of a request: its detections or its error, and the seconds of the runs that it took part in."""

    result: Detections | GlipExportError
    cached: bool = False  # the picture's features were there
    seconds: dict[str, float] = field(default_factory=dict)  # image, text, head; also "prepare" where done here


def image_key(picture: bytes | U8) -> str:
    """What tells a picture from others: SHA-256 of a file's bytes, or of an array's size and pixels."""
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).hexdigest()
    digest = hashlib.sha256(f"{picture.shape}".encode())
    digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()
