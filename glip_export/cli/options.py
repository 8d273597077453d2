"""The options that several commands share, and how their words are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glip_export.errors import GlipExportError

BACKEND_WORDS = "torch, onnxruntime, openvino, openvino:bf16"

BundleArgument = Annotated[
    Path | None, typer.Argument(help="The bundle's folder; by default the newest under engines/.", show_default=False)
]
BundleOption = Annotated[
    Path | None, typer.Option(help="The bundle's folder; by default the newest under engines/.", show_default=False)
]
Backends = Annotated[
    list[str] | None, typer.Option("--backend", help=f"{BACKEND_WORDS}; repeat for several.", show_default=False)
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default all cores.", show_default=False)]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the result here as JSON.", dir_okay=False, show_default=False)
]
WeightsAgain = Annotated[
    str | None,
    typer.Option(help="The checkpoint, if it is no longer where the bundle was made.", show_default=False),
]


def bundle_or_newest(path: Path | None) -> Path:
    """The folder that was named, or the newest bundle under engines/; raises BundleError if there is none."""
    from glip_export.bundle import newest_bundle

    return path or newest_bundle()


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """ "800x1216" as (height, width) in pixels; raises GlipExportError for anything else but None."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise GlipExportError(f"--image-size is HEIGHTxWIDTH, such as 800x1216, not {text!r}")
    return int(height), int(width)
