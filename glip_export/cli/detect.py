"""glip-export detect: pictures and a prompt to boxes, drawn and as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glip_export.cli.console import console, tell
from glip_export.cli.options import (
    Backend,
    BundleOption,
    Chunk,
    ClassAgnosticNms,
    GpuPreprocess,
    JsonOption,
    NamesOption,
    PromptOption,
    Threads,
    WeightsAgain,
    bundle_or_newest,
)
from glip_export.errors import GlipExportError, ImageError

if TYPE_CHECKING:
    from glip_export.cli.detect_output import Wanted
    from glip_export.cli.detect_prompt import Asked
    from glip_export.cli.detect_source import Source


def detect(
    context: typer.Context,
    images: Annotated[
        list[Path], typer.Argument(help="Pictures, and folders of pictures, which are searched to their depths.")
    ],
    prompt: PromptOption = None,
    names: NamesOption = None,
    sentence: Annotated[
        str | None,
        typer.Option(
            help="What to look for, in place of --prompt: the phrases in brackets, "
            '"[a cat] beside [a red remote control]", or without brackets its noun phrases (extra phrases).',
            show_default=False,
        ),
    ] = None,
    bundle: BundleOption = None,
    backend: Backend = "auto",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Draw and print detections from this score on.")] = 0.5,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pictures a batch, padded together, which changes what is found a little. By default up to 8 pictures "
            "that are named one by one are one batch; of more, and of folders, each is a batch of its own.",
            show_default=False,
        ),
    ] = None,
    chunk: Chunk = None,
    class_agnostic_nms: ClassAgnosticNms = False,
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for the annotated pictures: JPEG for JPEG, PNG for all others. An input is never written to."
        ),
    ] = Path("detections"),
    no_draw: Annotated[bool, typer.Option("--no-draw", help="Write no annotated pictures.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first picture that cannot be used: exit code 2.")
    ] = False,
    weights: WeightsAgain = None,
    threads: Threads = None,
    gpu_preprocess: GpuPreprocess = False,
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

    A baked model (--bundle FILE.onnx) holds its names and takes no prompt. Results are written as they come, in the
    memory of a batch or two. A picture that cannot be used is told, counted and left out; if none can be, the exit
    code is 2.

    Example: glip-export detect photo.jpg holiday/ --prompt "cat. remote control" --html gallery.html
    """
    from glip_export.cli.detect_output import Wanted
    from glip_export.cli.detect_prompt import baked_prompt, read_prompt
    from glip_export.cli.detect_source import LocalSource, ServerSource, check_only_local
    from glip_export.cli.outputs import bundle_files

    path = bundle_or_newest(bundle) if server is None else None
    held = None if path is None else baked_prompt(path, prompt, names, sentence)
    asked = held or read_prompt(prompt, names, sentence)
    read: list[Path | str | None] = [names, token_file, weights]
    source: Source
    if server is None or path is not None:
        assert path is not None
        if token_file is not None:
            raise GlipExportError("--token-file is for --server: leave it out, or name the server")
        read += bundle_files(path)
        source = LocalSource(
            *(path, backend, batch_size, chunk, weights, threads, class_agnostic_nms), gpu_preprocess=gpu_preprocess
        )
    else:
        local = (
            *("bundle", "backend", "batch_size", "chunk", "weights", "threads", "class_agnostic_nms"),
            "gpu_preprocess",
        )
        check_only_local([name for name in local if _was_given(context, name)])
        source = ServerSource(server, token_file)
    wanted = Wanted(threshold, None if no_draw else output, json, html)
    run(images, asked, source, wanted, strict, read, left_out=output)


def run(
    images: Sequence[Path],
    asked: Asked,
    source: Source,
    wanted: Wanted,
    strict: bool = False,
    read: Sequence[Path | str | None] = (),
    left_out: Path | None = None,
) -> None:
    """Detects in pictures and folders, writes what is wanted, tells what cannot be used, prints a table and counts.

    read: files that are not to be written to, beside the pictures. left_out: a folder that is not searched.
    """
    from glip_export.cli.detect_inputs import find_pictures
    from glip_export.cli.detect_output import writer
    from glip_export.cli.detect_reading import Failure, read_batches
    from glip_export.cli.detect_summary import Summary
    from glip_export.cli.detect_targets import annotated_targets
    from glip_export.cli.outputs import check_outputs
    from glip_export.cli.progress import pictures_progress

    pictures = find_pictures(images, left_out or wanted.output)
    files = {"--json": wanted.json, "--html": wanted.html}
    check_outputs(files, [*(picture.path for picture in pictures), *read])
    if wanted.output is not None:
        kept = [Path(path) for path in (*files.values(), *read) if path is not None]
        pictures = annotated_targets(pictures, wanted.output, kept)
    at_once = source.at_once(len(pictures), any(image.is_dir() for image in images))
    summary = Summary(wanted.threshold)
    with (
        source.opened(asked.prompt) as opened,
        writer(wanted, {**source.describe(), **asked.described}, asked.words, source.title) as writing,
        pictures_progress(transient=True) as progress,
    ):
        bar = progress.add_task("detecting", total=len(pictures))
        started = time.perf_counter()
        for batch in read_batches(pictures, at_once, lambda found: opened.load(found, wanted.needs_pixels)):
            failures = batch.failures
            if batch.pictures and not (strict and failures):
                for picture, answer in zip(batch.pictures, opened.detect(batch.pictures), strict=True):
                    if isinstance(answer, ImageError):
                        failures.append(Failure(picture.found, answer))
                    else:
                        writing.add(picture, answer)
                        summary.add(picture.found, answer)
            for failure in failures:
                if strict or len(pictures) == 1:
                    raise failure.error
                tell(f"glip-export: left out: {failure.error}")
                writing.add_failure(failure)
                summary.failures += 1
            progress.update(bar, advance=batch.tried)
        if not summary.pictures:
            raise ImageError(f"none of the {len(pictures)} pictures could be used; why is told above")
    seconds = time.perf_counter() - started
    console.print(summary.table())
    written = [path for path in (wanted.output, *files.values()) if path is not None]
    for line in summary.lines(seconds, written):
        console.print(line, soft_wrap=True, markup=False)


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
