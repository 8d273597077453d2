"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
