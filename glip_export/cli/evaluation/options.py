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
Chunk = Annotated[
    int | None, typer.Option(min=1, help="Names a caption; by default as many as fit.", show_default=False)
]
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
