"""glip-export detect: pictures and a prompt to boxes, drawn and as JSON."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from glip_export.cli.console import console
from glip_export.cli.options import BACKEND_WORDS, BundleOption, JsonOption, Threads, WeightsAgain, bundle_or_newest
from glip_export.errors import GlipExportError

if TYPE_CHECKING:
    from glip_export.cli.detect_source import Source
    from glip_export.image import U8
    from glip_export.results.detections import Detections
    from glip_export.results.gallery import GalleryPicture


def detect(
    context: typer.Context,
    images: Annotated[list[Path], typer.Argument(help="Pictures; run as one batch, padded together.")],
    prompt: Annotated[str, typer.Option(help='What to look for, names with stops between: "cat. remote control".')],
    bundle: BundleOption = None,
    backend: Annotated[str, typer.Option(help=f"{BACKEND_WORDS}, or auto for the fastest.")] = "onnxruntime",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Draw and print detections from this score on.")] = 0.5,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures a batch; by default all in one.", show_default=False)
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(min=1, help="Names a caption; by default as many as fit.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the annotated pictures.")] = Path("detections"),
    weights: WeightsAgain = None,
    threads: Threads = None,
    json: JsonOption = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a page with all pictures and boxes here, one file that opens without a server.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Have it done by a running glip-export serve or Triton (grpc://HOST:PORT), each picture alone.",
            show_default=False,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the server's token; by default the variable GLIP_EXPORT_TOKEN, if set.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Detect what a prompt names; writes annotated pictures, and with --json or --html all boxes whatever their score.

    Example: glip-export detect photo.jpg --prompt "cat. remote control" --html gallery.html
    """

    from glip_export.cli.detect_source import LocalSource, ServerSource, check_only_local

    source: Source
    if server is None:
        if token_file is not None:
            raise GlipExportError("--token-file is for --server: leave it out, or name the server")
        source = LocalSource(bundle_or_newest(bundle), backend, batch_size, chunk, weights, threads)
    else:
        local = ("bundle", "backend", "batch_size", "chunk", "weights", "threads")
        check_only_local([name for name in local if _was_given(context, name)])
        source = ServerSource(server, token_file)
    run(images, prompt, source, threshold, output, json, html)


def run(
    images: Sequence[Path],
    prompt: str,
    source: Source,
    threshold: float,
    output: Path,
    json: Path | None,
    html: Path | None = None,
) -> None:
    """Detects, prints a table, writes one annotated PNG a picture and, with json and html, every detection."""
    from glip_export.bundle.files import atomic_write_text
    from glip_export.image import load_image
    from glip_export.prompt import Prompt
    from glip_export.results.gallery import write_gallery

    parsed = Prompt.of(prompt)
    targets = _targets(images, output)
    pictures = [load_image(image) for image in images]  # all are looked at before the first is run
    results: list[Detections] = []
    started = time.perf_counter()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("detecting", total=len(pictures))
        for found in source.detect(images, pictures, parsed):
            results += found
            progress.update(task, completed=len(results))
    seconds = time.perf_counter() - started
    for picture, detections, target in zip(pictures, results, targets, strict=True):
        _draw(picture, detections, threshold, target)
    if json is not None:
        entries = [
            {"file": str(image), "annotated": str(target), **detections.to_dict()}
            for image, target, detections in zip(images, targets, results, strict=True)
        ]
        document = {**source.describe(), "prompt": prompt, "results": entries}
        atomic_write_text(json, json_module.dumps(document, indent=1) + "\n")
    if html is not None:
        write_gallery(html, _gallery(images, pictures, results), prompt, source.title, threshold)
    console.print(_table(images, results, threshold))
    written = ", ".join(str(path) for path in (output, json, html) if path is not None)
    console.print(f"{len(pictures)} picture(s) in {seconds:.2f} s; annotated in {written}")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _gallery(images: Sequence[Path], pictures: Sequence[U8], results: Sequence[Detections]) -> list[GalleryPicture]:
    from glip_export.results.gallery import GalleryPicture

    return [
        GalleryPicture(image.name, picture, detections)
        for image, picture, detections in zip(images, pictures, results, strict=True)
    ]


def _targets(images: Sequence[Path], output: Path) -> list[Path]:
    """Where each annotated picture goes; pictures of one name are told apart by a number."""
    if output.exists() and not output.is_dir():
        raise GlipExportError(f"--output {output} is a file; it is the folder for the annotated pictures")
    targets: list[Path] = []
    for image in images:
        target, number = output / f"{image.stem}.png", 2
        while target in targets:
            target, number = output / f"{image.stem}-{number}.png", number + 1
        targets.append(target)
    return targets


def _draw(picture: U8, detections: Detections, threshold: float, target: Path) -> None:
    from glip_export.bundle.files import atomic_path

    drawn = detections.draw(picture, threshold)
    with atomic_path(target) as temporary:
        drawn.save(temporary, format="PNG")


def _table(images: Sequence[Path], results: Sequence[Detections], threshold: float) -> Table:
    table = Table(title=f"detections that score {threshold:g} or more")
    for column in ("picture", "name", "score", "box (xyxy, pixels)"):
        table.add_column(column, justify="right" if column == "score" else "left")
    for image, detections in zip(images, results, strict=True):
        shown = detections.above(threshold)
        for name, score, box in zip(shown.names[:20], shown.scores, shown.boxes, strict=False):
            table.add_row(image.name, name, f"{score:.3f}", ", ".join(f"{side:.1f}" for side in box))
        rest = len(shown) - 20
        if rest > 0:
            table.add_row(image.name, f"and {rest} more", "", "")
        if not len(shown):
            best = f"best score {detections.scores[0]:.3f}" if len(detections) else "none at all"
            table.add_row(image.name, "none", "", best)
    return table
