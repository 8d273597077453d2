"""glip-export onnx: checkpoint to bundle, with a first check of each graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from glip_export.cli.console import console, megabytes, steps_progress
from glip_export.cli.options import parse_image_size
from glip_export.cli.outputs import check_outputs
from glip_export.errors import GlipExportError

if TYPE_CHECKING:
    from glip_export.bundle import Bundle


def onnx(
    weights: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="GLIP's weights, the original's or mmdetection's: .pth, .safetensors, the folder of a sharded one, "
            "or hf://OWNER/REPO/FILE. Optimizer state beside them is passed over.",
        ),
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
    ema: Annotated[
        bool,
        typer.Option(
            "--ema",
            help="Take the averaged weights that training with SOLVER.MODEL_EMA saved in the same file, as model_ema.",
        ),
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY VALUE]...", help="Configuration overrides.", show_default=False),
    ] = None,
) -> None:
    """Export a checkpoint to a bundle of three ONNX graphs, each checked against PyTorch.

    Example: glip-export onnx --weights glip_tiny_model_o365_goldg.pth MODEL.DYHEAD.SCORE_AGG MEAN
    """
    run(weights, config, bert_config, output, parse_image_size(image_size), _overrides(overrides), ema)


def run(
    weights: str,
    config: Path | None,
    bert_config: Path | None,
    output: Path | None,
    image_size: tuple[int, int] | None,
    overrides: Sequence[str],
    ema: bool = False,
) -> None:
    """Loads, exports, checks, and prints a summary."""
    import onnxruntime

    from glip_export.checkpoint import resolve_weights, weights_files, weights_name
    from glip_export.graphs.export import check_image_size, export_onnx
    from glip_export.model.glip import load_model
    from glip_export.parity.first_check import first_check
    from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession
    from glip_export.runtime.torch_session import TorchSession
    from glip_export.runtime.versions import check_version

    check_version(onnxruntime)  # before the minutes that the export takes
    if image_size is not None:
        check_image_size(image_size)
    with steps_progress() as progress:
        task = progress.add_task(f"loading {weights}")
        path = resolve_weights(weights)
        target = output or Path("engines") / weights_name(path)
        check_outputs({}, [*weights_files(path), config, bert_config], replaced={"--output": target})
        model = load_model(path, config, overrides, bert_config, ema)
        if model.load_report is not None:
            progress.console.print(f"{path.name}: {model.load_report.summary()}", soft_wrap=True)
            progress.console.print(f"SHA-256 {model.weights_sha256}")
        bundle = export_onnx(model, target, image_size, lambda step: progress.update(task, description=step))
        progress.update(task, description="comparing with PyTorch")
        differences = first_check(TorchSession(model), OnnxRuntimeSession(bundle), bundle.config, image_size)
    console.print(_summary(bundle, differences))
    console.print(f"Wrote {bundle.path}. Next: glip-export verify {bundle.path}", soft_wrap=True)


def _overrides(words: list[str] | None) -> tuple[str, ...]:
    for word in words or ():
        if word.startswith("--"):
            raise GlipExportError(f"there is no option {word}; see: glip-export onnx --help")
    return tuple(words or ())


def _summary(bundle: Bundle, differences: dict[str, float]) -> Table:
    from glip_export.graphs.contracts import GRAPHS

    size = "dynamic" if bundle.image_size is None else "{}x{}".format(*bundle.image_size)
    table = Table(title=f"{bundle.config.name}, {bundle.precision}, pictures {size}, opset {_opset(bundle)}")
    for column in ("graph", "nodes", "parameters", "MB", "seconds", "max|diff|/rms"):
        table.add_column(column, justify="left" if column == "graph" else "right")
    for name in GRAPHS:
        graph = bundle.graphs[name]
        table.add_row(
            name,
            str(graph.nodes),
            f"{graph.parameters / 1e6:.1f} M",
            megabytes(graph.bytes),
            f"{graph.seconds:.0f}",
            f"{differences[name]:.1e}",
        )
    return table


def _opset(bundle: Bundle) -> int:
    return max(graph.opset for graph in bundle.graphs.values())
