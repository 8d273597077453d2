"""The options that the verbs of `glip-export eval` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Images = Annotated[
    Path | None,
    typer.Option(help="The folder of the pictures; not needed with --detections.", metavar="DIR", show_default=False),
]
Batch = Annotated[int, typer.Option(min=1, help="Pictures padded together, in order of their ids.")]
AspectGroups = Annotated[
    bool, typer.Option("--aspect-groups", help="Batch wide pictures apart, as the original does above batch 1.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many pictures.", show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option(help="Folder for the detections; by default evaluation/<bundle>-<JSON>.", show_default=False),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first broken picture or annotation: exit code 2.")]
Workers = Annotated[
    int,
    typer.Option(
        min=1,
        help="Processes, each with a model of its own and as many --threads as one alone has: what is found is the "
        "same. With many cores give fewer threads, to one worker too if results are to be the same to the last digit.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Have a Ray cluster do it, with as many workers as it has room for, each of --threads, by default 1: "
        '"auto" for the cluster of this machine, "local" for one that ends with the run, or its head\'s HOST:PORT. '
        "What is found is the same as here with as many --threads.",
        show_default=False,
    ),
]
GpusPerWorker = Annotated[
    float, typer.Option(min=0, help="On --ray: GPUs that a worker reserves; parts of one are shared.")
]
DetectionsFile = Annotated[
    Path | None,
    typer.Option(
        "--detections",
        metavar="FILE",
        help="Score these detections in place of a bundle's: what an earlier run kept, or what was found elsewhere.",
        dir_okay=False,
        show_default=False,
    ),
]
MaxApDifference = Annotated[
    float | None,
    typer.Option(min=0, help="Exit with 1 if a backend's AP is further from the first's.", show_default=False),
]
