"""glip-export quantize: an fp32 bundle to an int8 one, calibrated on the user's pictures and prompt."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from glip_export.cli.console import console, megabytes
from glip_export.cli.options import (
    BundleArgument,
    JsonOption,
    NamesOption,
    PromptOption,
    Threads,
    bundle_or_newest,
)
from glip_export.cli.outputs import bundle_files, check_outputs
from glip_export.errors import BackendError, GlipExportError

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.evaluation.dataset import CocoDataset
    from glip_export.graphs.quantization.calibration import Calibration
    from glip_export.graphs.quantization.noise import Noise
    from glip_export.graphs.quantization.sensitivity import Sensitivity

METHODS = ("minmax", "percentile", "entropy")  # graphs.quantization.ranges's
WORST = 8  # modules that the table at the end shows


def quantize(
    bundle: BundleArgument = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of pictures such as the model will see.", show_default=False),
    ] = None,
    prompt: PromptOption = None,
    names: NamesOption = None,
    output: Annotated[
        Path | None, typer.Option(help="The int8 bundle's folder; by default <bundle>-int8.", show_default=False)
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="The most pictures to calibrate on.")] = 64,
    seed: Annotated[int, typer.Option(help="Which pictures, where the folder holds more.")] = 0,
    method: Annotated[
        str, typer.Option(help="How ranges are chosen: minmax, percentile (of 99.99) or entropy.")
    ] = "minmax",
    keep_float: Annotated[
        list[str] | None,
        typer.Option("--float", metavar="PATTERN", help="Modules that stay float; repeat.", show_default=False),
    ] = None,
    sensitivity: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure each module alone in int8, with --annotations its AP too; written here as JSON.",
        ),
    ] = None,
    max_ap_drop: Annotated[
        float | None,
        typer.Option(min=0, help="Modules go back to float until the AP on --annotations falls no more than this."),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="COCO annotations of the pictures in --calibration.", show_default=False),
    ] = None,
    threads: Threads = None,
    json: JsonOption = None,
) -> None:
    """Write a bundle in int8 beside an fp32 one: a quarter of its size, and faster on CPUs with VNNI.

    Stopped and started again it goes on where it was; the same pictures, prompt and options give the same graphs.

    Example: glip-export quantize engines/glip_tiny --calibration photos --prompt "person. car. traffic light"
    """
    if calibration is None:
        raise GlipExportError("give --calibration, a folder of pictures such as the model will see")
    if max_ap_drop is not None and annotations is None:
        raise GlipExportError("--max-ap-drop needs --annotations: the AP is measured on annotated pictures")
    if annotations is not None and max_ap_drop is None and sensitivity is None:
        raise GlipExportError("--annotations is for --max-ap-drop or --sensitivity: name one of them")
    where = bundle_or_newest(bundle)
    target = output or where.parent / f"{where.resolve().name}-int8"
    inputs = [*bundle_files(where), calibration, names, annotations]
    check_outputs({"--json": json, "--sensitivity": sensitivity}, inputs, replaced={"--output": target})
    if method not in METHODS:
        raise GlipExportError(f"--method is {', '.join(METHODS)}, not {method!r}")
    plan = QuantizePlan(where, target, calibration, prompt, names, images, seed, method, keep_float or [], threads)
    run(plan, sensitivity, max_ap_drop, annotations, json)


@dataclass(frozen=True)
class QuantizePlan:
    """What is quantized, on what, and to where."""

    bundle: Path
    output: Path
    pictures: Path
    prompt: str | None
    names: Path | None
    most: int  # pictures
    seed: int
    method: str
    keep_float: list[str]
    threads: int | None


def run(
    plan: QuantizePlan, sensitivity: Path | None, max_ap_drop: float | None, annotations: Path | None, json: Path | None
) -> None:
    """Calibrates, measures what is asked, writes, and prints a summary."""
    try:
        from glip_export.graphs.quantization.calibration import calibrate, captions
        from glip_export.graphs.quantization.int8_bundle import check_is_fp32, float_modules, write_int8_bundle
        from glip_export.graphs.quantization.noise import noise_table
    except ImportError as error:
        raise BackendError(f"quantizing needs {error.name}: pip install 'glip-export[export]'") from error
    from glip_export.bundle import Bundle
    from glip_export.bundle.files import atomic_write_text
    from glip_export.cli.detect_prompt import read_prompt
    from glip_export.cli.progress import pictures_progress, progress_bar
    from glip_export.graphs.quantization.pictures import calibration_pictures

    opened = Bundle.open(plan.bundle)
    check_is_fp32(opened)
    dataset = _annotated(annotations, plan.pictures)
    asked = read_prompt(plan.prompt, plan.names).prompt
    captions(opened, asked)
    pictures = calibration_pictures(plan.pictures, plan.most, plan.seed)
    kept = float_modules(opened, plan.keep_float)
    with pictures_progress() as progress:
        bar = progress_bar(progress, "calibrating", len(pictures))
        found = calibrate(opened, pictures, asked, plan.method, plan.threads, bar)
    noise = noise_table(opened, found)
    order = [row.module for row in noise]
    facts: dict[str, Any] = {"worst": order[:WORST]}
    if sensitivity is not None:
        rows = _measured(opened, found, dataset, plan.threads)
        order = [row.module for row in rows]
        atomic_write_text(sensitivity, json_module.dumps([vars(row) for row in rows], indent=1) + "\n")
        console.print(_sensitivity_table(rows[:WORST]))
        console.print(f"Wrote {sensitivity}", soft_wrap=True)
    if max_ap_drop is not None and dataset is not None:
        from glip_export.evaluation.int8_search import within_drop

        order = [module for module in order if module not in set(kept)]
        with pictures_progress() as progress:
            result = within_drop(
                opened,
                plan.output,
                found,
                order,
                kept,
                dataset,
                max_ap_drop,
                plan.threads,
                partial(progress_bar, progress),
                facts,
            )
        written, facts = result.bundle, {**facts, "ap": result.to_json()}
        console.print(result.line(), soft_wrap=True)
    else:
        written = write_int8_bundle(opened, plan.output, found, kept, facts)
    console.print(_noise_table(noise[:WORST]))
    console.print(_summary(opened, written), soft_wrap=True)
    if json is not None:
        described = {"bundle": str(written.path), **written.extra["quantization"], **facts}
        described["modules"] = [vars(row) for row in noise]
        atomic_write_text(json, json_module.dumps(described, indent=1) + "\n")
        console.print(f"Wrote {json}", soft_wrap=True)
    console.print(f"Wrote {written.path}. Next: glip-export detect IMAGE --bundle {written.path}", soft_wrap=True)


def _annotated(annotations: Path | None, pictures: Path) -> CocoDataset | None:
    if annotations is None:
        return None
    from glip_export.evaluation.int8_search import annotated_pictures

    return annotated_pictures(annotations, pictures)


def _measured(
    bundle: Bundle, found: Calibration, dataset: CocoDataset | None, threads: int | None
) -> list[Sensitivity]:
    """Each module alone in int8, the most sensitive first: by its AP, where there are annotations."""
    from glip_export.cli.progress import pictures_progress, progress_bar
    from glip_export.graphs.quantization.sensitivity import measure

    with pictures_progress() as progress:
        rows = measure(bundle, found, threads, progress_bar(progress, "modules, one by one", None))
    if dataset is None:
        return rows
    from glip_export.evaluation.int8_search import ap_of_each

    with pictures_progress(transient=True) as progress:
        modules = [row.module for row in rows]
        fp32, aps = ap_of_each(bundle, found, modules, dataset, threads, partial(progress_bar, progress))
    console.print(f"AP {fp32:.4f} in fp32, {min(aps.values()):.4f} with the most sensitive module alone in int8")
    return sorted((replace(row, ap=aps[row.module]) for row in rows), key=lambda row: (row.ap, row.sqnr))


def _summary(bundle: Bundle, written: Bundle) -> str:
    before, after = (sum(graph.bytes for graph in one.graphs.values()) for one in (bundle, written))
    return f"{megabytes(before)} MB in fp32, {megabytes(after)} MB in int8: {after / before:.1%}"


def _module_table(title: str, *numbers: str) -> Table:
    """Empty, with a column for each number."""
    table = Table("graph", "module", title=title)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _noise_table(rows: Sequence[Noise]) -> Table:
    title = "The noisiest modules: signal over rounding, in dB (a bit is 6)"
    table = _module_table(title, "weight", "input", "product")
    for row in rows:
        given = "float" if row.input is None else f"{row.input:.1f}"
        table.add_row(row.graph, row.module, f"{row.weight:.1f}", given, f"{row.product:.1f}")
    return table


def _sensitivity_table(rows: Sequence[Sensitivity]) -> Table:
    title = "Each module alone in int8: the outputs' largest error over their rms, and signal over error"
    table = _module_table(title, "largest", "dB", "AP")
    for row in rows:
        ap = "" if row.ap is None else f"{row.ap:.4f}"
        table.add_row(row.graph, row.module, f"{row.largest:.4f}", f"{row.sqnr:.1f}", ap)
    return table
