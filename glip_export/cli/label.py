"""glip-export label: pictures from anywhere to a data set, by this machine or by many on Ray."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from glip_export.cli.options import (
    Backend,
    BundleOption,
    Chunk,
    ClassAgnosticNms,
    GpuPreprocess,
    JsonOption,
    NamesOption,
    PromptOption,
    WeightsAgain,
)
from glip_export.errors import GlipExportError


class Format(StrEnum):
    """What is made of the labels."""

    COCO = "coco"
    YOLO = "yolo"
    PARQUET = "parquet"
    JSONL = "jsonl"


class Pictures(StrEnum):
    """How a YOLO data set has its pictures."""

    LINK = "link"
    COPY = "copy"
    NONE = "none"


def _folder(text: str) -> Path:
    """Not an empty text, as of a shell's variable that is not set: as a path it would be the current folder."""
    if not text:
        raise GlipExportError("--output is empty: name a folder")
    if Path(text).is_file():
        raise GlipExportError(f"--output {text} is a file: name a folder")
    return Path(text)


def label(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, searched to its depths; a text file with a path a line; Parquet files with paths or bytes; "
            "WebDataset shards (.tar); or an s3:// or gs:// address of these.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="The run's folder: shards, the data set, summary.json, errors.jsonl.",
            metavar="DIRECTORY",
            parser=_folder,
        ),
    ],
    prompt: PromptOption = None,
    names: NamesOption = None,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="What to make of the labels; repeat for several. By default coco."),
    ] = None,
    bundle: BundleOption = None,
    backend: Backend = "onnxruntime",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Keep boxes from this score on.")] = 0.5,
    thresholds: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Of some names another: JSON or YAML, {"cat": 0.4}.',
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    val: Annotated[
        float, typer.Option(min=0, max=0.9, help="The share of the pictures that is for validation, 0.1 for a tenth.")
    ] = 0.0,
    pictures: Annotated[
        Pictures, typer.Option(help="How a YOLO data set has its pictures; those in tar or Parquet are always copied.")
    ] = Pictures.LINK,
    column: Annotated[
        str | None,
        typer.Option(help="Of Parquet files the column with paths or bytes; else found.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes, each with a model of its own and as many --threads as one alone has; by default 1, on "
            "--ray as many as the cluster has room for.",
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help='Have it done by a Ray cluster: "auto" for the one of this machine, or its head\'s HOST:PORT.',
            show_default=False,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float, typer.Option(min=0, help="On --ray: GPUs that a worker reserves; parts of one are shared.")
    ] = 0.0,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            "--threads-per-worker",
            min=1,
            help="CPU threads of each worker; by default all cores, on --ray 1. The last digits depend on it.",
            show_default=False,
        ),
    ] = None,
    chunk: Chunk = None,
    class_agnostic_nms: ClassAgnosticNms = False,
    gpu_preprocess: GpuPreprocess = False,
    shard_size: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Pictures that are kept together, and lost at most if killed.")
    ] = 256,
    retry_errors: Annotated[
        bool,
        typer.Option("--retry-errors", help="Answer shards with errors again: pictures were mended, a store is back."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first picture that cannot be used: exit code 2.")
    ] = False,
    weights: WeightsAgain = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with a sample of the pictures and their boxes here.", dir_okay=False),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Label a data set: each picture is answered as if alone, whatever the workers; a bad one is a row in errors.jsonl.

    Killed and started again it goes on: what is in the output folder's shards is kept. The same command with another
    --format, --val or a higher --threshold makes another data set of them, and detects nothing again.

    Example: glip-export label photos/ --prompt "cat. dog" --output labelled --format yolo --val 0.1
    """
    from glip_export.cli.label_run import Asked, run

    run(
        Asked(
            source=source,
            output=output,
            prompt=prompt,
            names=names,
            formats=tuple(dict.fromkeys(str(one) for one in formats or ("coco",))),
            bundle=bundle,
            backend=backend,
            threshold=threshold,
            thresholds=thresholds,
            val=val,
            pictures=pictures.value,
            column=column,
            workers=workers,
            ray=ray,
            gpus_per_worker=gpus_per_worker,
            threads=threads,
            chunk=chunk,
            class_agnostic_nms=class_agnostic_nms,
            gpu_preprocess=gpu_preprocess,
            shard_size=shard_size,
            retry_errors=retry_errors,
            strict=strict,
            weights=weights,
            html=html,
            json=json,
        )
    )
