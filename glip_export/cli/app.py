"""glip-export: its verbs, a file each. Heavy imports stay inside their functions, so that --help is instant."""

from __future__ import annotations

from typing import Annotated

import typer

from glip_export.cli.bake import bake
from glip_export.cli.console import run_app
from glip_export.cli.detect import detect
from glip_export.cli.evaluation.coco import coco
from glip_export.cli.evaluation.flickr30k import flickr30k
from glip_export.cli.evaluation.lvis import lvis
from glip_export.cli.evaluation.odinw import odinw
from glip_export.cli.info import info
from glip_export.cli.label import label
from glip_export.cli.onnx import onnx
from glip_export.cli.options import Verb
from glip_export.cli.quantize import quantize
from glip_export.cli.serve import serve
from glip_export.cli.triton import triton
from glip_export.cli.trt import trt
from glip_export.cli.verify import verify

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


app.command(cls=Verb, context_settings={"ignore_unknown_options": True})(onnx)  # so that an override's value may be -1
for verb in (quantize, bake, trt, verify, detect, label, info, triton, serve):
    app.command(cls=Verb)(verb)
evaluations.command(cls=Verb)(coco)
evaluations.command(cls=Verb)(lvis)
evaluations.command(cls=Verb)(flickr30k)
evaluations.command(cls=Verb)(odinw)


def main() -> None:
    """The entry point."""
    run_app(app, "glip-export")
