"""glip-export bake: a bundle and a vocabulary to one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from glip_export.cli.console import console, megabytes, steps_progress
from glip_export.cli.options import BundleArgument, NamesOption, PromptOption, bundle_or_newest, parse_image_size
from glip_export.cli.outputs import bundle_files, check_outputs
from glip_export.errors import BackendError, GlipExportError

if TYPE_CHECKING:
    from glip_export.graphs.bake import Baked
    from glip_export.prompt import Prompt


def bake(
    bundle: BundleArgument = None,
    prompt: PromptOption = None,
    names: NamesOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.onnx", help="The file; by default <bundle>-baked.onnx beside the bundle.", show_default=False
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Fix the pictures' size, padding included: a simpler graph.", show_default=False
        ),
    ] = None,
    uint8: Annotated[
        bool,
        typer.Option("--uint8", help="Take one picture as it is, uint8 RGB (H, W, 3), and resize it in the graph."),
    ] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Single precision; the default of an fp32 bundle.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision, for GPUs: half the size.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Of a bundle that glip-export quantize made.")] = False,
) -> None:
    """Fix a vocabulary in the model: one ONNX file, from pictures to boxes, scores, labels and count.

    The text encoder runs once, here, and is left out of the file; what depends on the names alone becomes constants.
    The file needs no tokenizer, no prompt and no glip-export: ONNX Runtime, OpenVINO or TensorRT run it alone, and its
    metadata holds the names and how pictures are prepared (docs/baking.md has ten lines that do). Here it is run by
    detect, info and Detector.open like a bundle, but without a prompt.

    Example: glip-export bake engines/glip_tiny --names coco.txt --output coco.onnx
    """
    from glip_export.cli.detect_prompt import read_prompt

    precision = _precision(fp32, fp16, int8)
    size = parse_image_size(image_size)
    if (prompt is None) == (names is None):
        raise GlipExportError("give what the model is to find: one of --prompt and --names")
    asked = read_prompt(prompt, names).prompt
    where = bundle_or_newest(bundle)
    target = output or where.resolve().with_name(f"{where.resolve().name}-baked.onnx")
    check_outputs({"--output": target}, [names, *bundle_files(where)])
    run(where, asked, target, precision, size, uint8)


def run(
    path: Path,
    prompt: Prompt,
    target: Path,
    precision: str | None,
    image_size: tuple[int, int] | None,
    pixels: bool = False,
) -> None:
    """Bakes, and prints what came of it."""
    try:
        from glip_export.graphs.bake import bake
    except ImportError as error:
        raise BackendError(f"baking needs {error.name}: pip install 'glip-export[export]'") from error
    with steps_progress() as progress:
        task = progress.add_task(f"reading {path}")
        baked = bake(
            path,
            prompt,
            target,
            precision=precision,
            image_size=image_size,
            pixels=pixels,
            progress=lambda step: progress.update(task, description=step),
        )
    console.print(_summary(baked))
    console.print(f"Wrote {baked.file.path}. Next: glip-export detect photo.jpg --bundle {target}", soft_wrap=True)


def _precision(fp32: bool, fp16: bool, int8: bool) -> str | None:
    named = [word for word, given in (("fp32", fp32), ("fp16", fp16), ("int8", int8)) if given]
    if len(named) > 1:
        raise GlipExportError(f"one precision a file, not {' and '.join(f'--{word}' for word in named)}")
    return named[0] if named else None


def _summary(baked: Baked) -> Table:
    count = len(baked.file.names)
    table = Table(
        title=f"{baked.file.config.name}, {baked.file.precision}: {count} name{'s' if count != 1 else ''}, "
        f"{baked.tokens} tokens, in {baked.seconds:.0f} s"
    )
    for column in ("", "name", "value"):
        table.add_column(column)
    for kind, values in (("input", baked.inputs), ("output", baked.outputs)):
        for name, described in values.items():
            table.add_row(kind, name, described)
    table.add_row("nodes", "", f"{baked.nodes} of {baked.nodes_before}")
    table.add_row("MB", "", f"{megabytes(baked.bytes)} of {megabytes(baked.bytes_before)}")
    return table
