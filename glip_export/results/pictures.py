"""Pictures as files, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from glip_export.bundle.files import atomic_path


def write_picture(target: Path, image: Image.Image, form: str, *, lasting: bool = True, **options: Any) -> None:
    """Writes a picture, whole or not at all; form, options: Pillow's; lasting: see `atomic_path`.

    Encoded in memory first: writing to a file, Pillow's JPEG encoder takes it for done when a full disk took a part.
    Raises GlipExportError where `target` cannot be written.
    """
    encoded = io.BytesIO()
    image.save(encoded, format=form, **options)
    with atomic_path(target, lasting=lasting) as temporary:
        temporary.write_bytes(encoded.getbuffer())
