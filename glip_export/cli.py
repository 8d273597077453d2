"""glip-export: one thin command a verb. Heavy imports stay inside the commands, so that --help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glip_export.cli_options import (
    BACKEND_WORDS,
    Backends,
    BundleArgument,
    BundleOption,
    JsonOption,
    Threads,
    WeightsAgain,
)
from glip_export.cli_serving import serve, triton
from glip_export.command_line import bundle_or_newest, parse_image_size, run_app
from glip_export.errors import GlipExportError

app = typer.Typer(
    name="glip-export",
    help="GLIP from an official PyTorch checkpoint to verified ONNX and TensorRT, and detections from it.",
    epilog="Start with: glip-export onnx --weights glip_tiny_model_o365_goldg.pth",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

evaluations = typer.Typer(
    help="Measure how well a bundle detects.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(evaluations, name="eval")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        from glip_export import __version__

        typer.echo(f"glip-export {__version__}")
        raise typer.Exit


@app.command(context_settings={"ignore_unknown_options": True})  # so that an override's value may be -1
def onnx(
    weights: Annotated[
        str, typer.Option(help="An official checkpoint: .pth, .safetensors, or hf://OWNER/REPO/FILE.", metavar="FILE")
    ],
    config: Annotated[
        Path | None,
        typer.Option(help="An official YAML; by default the published one the weights fit.", show_default=False),
    ] = None,
    bert_config: Annotated[
        Path | None, typer.Option(help="JSON with the sizes of a BERT that is not bert-base.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The bundle's folder; by default engines/<weights>.", show_default=False)
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Fix the pictures' size: a smaller, faster bundle.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY VALUE]...", help="Configuration overrides.", show_default=False),
    ] = None,
) -> None:
    """Export a checkpoint to a bundle of three ONNX graphs, each checked against PyTorch.

    Example: glip-export onnx --weights glip_tiny_model_o365_goldg.pth MODEL.DYHEAD.SCORE_AGG MEAN
    """
    from glip_export.commands.onnx import run

    run(weights, config, bert_config, output, parse_image_size(image_size), _overrides(overrides))


@app.command()
def trt(
    bundle: BundleArgument = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision; the default.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16: float32's range, fewer digits than fp16.")] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Single precision: the largest and slowest.")] = False,
    flavor: Annotated[
        str,
        typer.Option(
            help="tensorrt builds on the GPU that it builds for; tensorrt_rtx (TensorRT for RTX) builds without one, "
            "for Ampere and later; auto takes the first that works here."
        ),
    ] = "auto",
    deform_conv: Annotated[
        str, typer.Option(help="plugin: a CUDA kernel of ours; gridsample: TensorRT's own operators.")
    ] = "plugin",
    nms: Annotated[
        str, typer.Option(help="plugin: a CUDA kernel of ours; host: the runtime finishes on the CPU.")
    ] = "plugin",
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Sizes and build options, a YAML file or a shipped one's name (jetson); by default the one that fits.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare the lower precision with fp32 on the CPU first.")
    ] = True,
    json: JsonOption = None,
) -> None:
    """Build a bundle's three TensorRT engines; those that have not changed stay.

    With --deform-conv gridsample --nms host the engines need no plugin. An engine takes the sizes that its recipe
    names: copy engines/glip_t.yaml for your own. The check warns of a precision that finds too little; if it finds a
    graph broken, nothing is built and the exit code is 1.

    Example: glip-export trt engines/glip_tiny --fp16
    """
    from glip_export.commands.trt import chosen_precision, run

    precision = chosen_precision(fp16, bf16, fp32)
    if not run(bundle_or_newest(bundle), precision, flavor, deform_conv, nms, recipe, check, json):
        raise typer.Exit(1)


@app.command()
def verify(
    bundle: BundleArgument = None,
    weights: WeightsAgain = None,
    backend: Backends = None,
    quick: Annotated[bool, typer.Option("--quick", help="One small case instead of all.")] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Name the first module whose output leaves tolerance.")
    ] = False,
    threads: Threads = None,
    json: JsonOption = None,
) -> None:
    """Prove a bundle against the PyTorch reference: every graph's outputs, every detection.

    Exits with 1 if anything is out of tolerance. Example: glip-export verify engines/glip_tiny --json parity.json
    """
    from glip_export.commands.verify import run

    if not run(bundle_or_newest(bundle), weights, tuple(backend or ("onnxruntime",)), quick, trace, threads, json):
        raise typer.Exit(1)


@app.command()
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
    from glip_export.commands.detect import run
    from glip_export.commands.detect_source import LocalSource, ServerSource, Source, check_only_local

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


@evaluations.command()
def coco(
    images: Annotated[Path, typer.Option(help="The folder of the pictures.", metavar="DIR")],
    annotations: Annotated[Path, typer.Option(help="A COCO annotation file of any data set.", metavar="JSON")],
    bundle: BundleOption = None,
    backend: Backends = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures padded together, in order of their ids.")] = 3,
    chunk: Annotated[
        int | None, typer.Option(min=1, help="Names a caption; by default as many as fit.", show_default=False)
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help='What to ask for instead of the categories, by rising id: "a. b. c", or a file with a name a line.',
            show_default=False,
        ),
    ] = None,
    aspect_groups: Annotated[
        bool, typer.Option("--aspect-groups", help="Batch wide pictures apart, as the original does above batch 1.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many pictures.", show_default=False)
    ] = None,
    weights: WeightsAgain = None,
    threads: Threads = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the detections; by default evaluation/<bundle>-<JSON>.", show_default=False),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first broken picture or annotation: exit code 2.")
    ] = False,
    max_ap_difference: Annotated[
        float | None,
        typer.Option(min=0, help="Exit with 1 if a backend's AP is further from the first's.", show_default=False),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Measure COCO's average precision of one backend or several on a data set.

    Killed and started again it goes on where it was. Broken pictures and annotations are left out, counted and shown.

    Example: glip-export eval coco --images val2017 --annotations instances_val2017.json
    """
    from glip_export.commands.evaluate import Options, read_names, run_coco

    options = Options(read_names(names), batch, chunk, aspect_groups, limit, strict, threads, weights)
    backends = tuple(dict.fromkeys(backend or ("onnxruntime",)))
    where = bundle_or_newest(bundle)
    if not run_coco(images, annotations, where, backends, options, output, json, max_ap_difference):
        raise typer.Exit(1)


@app.command()
def info(
    bundle: BundleArgument = None,
    json: JsonOption = None,
) -> None:
    """Show what a bundle holds: its model, graphs, sizes, and the checkpoint it came from."""
    from glip_export.commands.info import run

    run(bundle_or_newest(bundle), json)


app.command()(triton)
app.command()(serve)


def main() -> None:
    """The entry point."""
    run_app(app, "glip-export")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _overrides(words: list[str] | None) -> tuple[str, ...]:
    for word in words or ():
        if word.startswith("--"):
            raise GlipExportError(f"there is no option {word}; see: glip-export onnx --help")
    return tuple(words or ())


if __name__ == "__main__":
    main()
