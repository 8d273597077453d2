"""glip-export trt: a bundle to TensorRT engines, after a check of the lower precision on the CPU."""

from __future__ import annotations

import ctypes
import json as json_module
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glip_export.cli.console import console, steps_progress
from glip_export.cli.options import BundleArgument, JsonOption, bundle_or_newest
from glip_export.cli.outputs import bundle_files, check_outputs
from glip_export.errors import BackendError, GlipExportError
from glip_export.trt.gpus import RTX_DEFAULT, engine_targets, owners, rtx_summary, targets_words

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.parity.precision_check import PrecisionReport

BROKEN = 0.5  # of the clear detections; where fewer come back it is no matter of rounding


def trt(
    bundle: BundleArgument = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision; the default.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16: float32's range, fewer digits than fp16.")] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Single precision: the largest and slowest.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Of a bundle of glip-export quantize: int8 products, the rest as --fp16.")
    ] = False,
    flavor: Annotated[
        str,
        typer.Option(
            help="tensorrt builds on the GPU that it builds for; tensorrt_rtx (TensorRT for RTX) builds without one, "
            f"for {targets_words(RTX_DEFAULT)}. {'. '.join(owners())}. "
            "auto: tensorrt where it and a GPU are there, else tensorrt_rtx, but not for a GPU that it may not serve."
        ),
    ] = "auto",
    deform_conv: Annotated[
        str,
        typer.Option(
            help="plugin: a CUDA kernel of ours; gridsample: TensorRT's own operators; fused: whole DyConv blocks in "
            "kernels of ours, in fp16 or fp32, not measured yet."
        ),
    ] = "plugin",
    nms: Annotated[
        str,
        typer.Option(
            help="plugin: a CUDA kernel of ours; native: TensorRT's operators; host: the runtime finishes on the CPU."
        ),
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

    With --deform-conv gridsample --nms native, or host, the engines need no plugin. An engine takes the sizes that its
    recipe names: copy engines/glip_t.yaml for your own. The check warns of a precision that finds too little; if it
    finds a graph broken, nothing is built and the exit code is 1.

    Of a baked model (FILE.onnx) one engine is built beside it, in the precision that it was baked in.

    Example: glip-export trt engines/glip_tiny --fp16
    """

    precision = chosen_precision(fp16, bf16, fp32, int8)
    where = bundle_or_newest(bundle)
    named = fp16 or bf16 or fp32 or int8
    if run_baked(where, precision if named else None, flavor, deform_conv, nms, recipe, json):
        return
    check_outputs({"--json": json}, [recipe, *bundle_files(where)])
    if not run(where, precision, flavor, deform_conv, nms, recipe, check, json):
        raise typer.Exit(1)


def chosen_precision(fp16: bool, bf16: bool, fp32: bool, int8: bool = False) -> str:
    """The one that was named, fp16 if none was; raises GlipExportError for several."""
    named = [word for word, given in (("fp16", fp16), ("bf16", bf16), ("fp32", fp32), ("int8", int8)) if given]
    if len(named) > 1:
        raise GlipExportError(f"one precision a build, not {' and '.join(f'--{word}' for word in named)}")
    return named[0] if named else "fp16"


def run_baked(
    path: Path,
    precision: str | None,
    flavor: str,
    deform_conv: str,
    nms: str,
    recipe: str | None,
    json: Path | None,
) -> bool:
    """Builds the one engine of a baked model, and says so; False for a bundle."""
    from glip_export.bundle.baked_file import is_baked

    if not is_baked(path):
        return False
    try:
        from glip_export.trt.baked import build_baked
    except ImportError as error:
        raise BackendError(f"building engines needs {error.name}: pip install 'glip-export[export]'") from error
    if json is not None:
        raise GlipExportError("--json is for a bundle's engines: of a baked model's one leave it out")
    with steps_progress() as progress:
        task = progress.add_task(f"reading {path}")
        engine = build_baked(
            path,
            flavor,
            precision,
            deform_conv=deform_conv,
            nms=nms,
            recipe=recipe,
            progress=lambda step: progress.update(task, description=step),
        )
    inputs, outputs = (", ".join(engine.facts[side]) for side in ("inputs", "outputs"))
    console.print(
        f"Built {engine.path}: {engine.flavor} {engine.version}, {engine.precision}, {engine.bytes / 1e6:.1f} MB, "
        f"{inputs} -> {outputs}, in {engine.facts['seconds']:.0f} s",
        soft_wrap=True,
    )
    return True


def run(
    path: Path,
    precision: str,
    flavor: str,
    deform_conv: str,
    nms: str,
    recipe: str | None,
    check: bool,
    json: Path | None,
) -> bool:
    """Checks, builds what is missing, prints a summary; False, and nothing built, if the check finds a broken graph."""
    from glip_export.bundle.files import atomic_write_text
    from glip_export.cli.engine_table import engine_table
    from glip_export.parity.recall import SHARE

    try:
        from glip_export.trt.build import plan_build
    except ImportError as error:
        raise BackendError(f"building engines needs {error.name}: pip install 'glip-export[export]'") from error
    with steps_progress() as progress:
        task = progress.add_task(f"reading {path}")
        plan = plan_build(path, flavor, precision, deform_conv=deform_conv, nms=nms, recipe=recipe)
        if plan.flavor.name == "tensorrt_rtx":
            progress.console.print(rtx_summary(plan.recipe.compute_capabilities), soft_wrap=True)
        if plan.doubt:
            progress.console.print(f"Mind: {plan.doubt}", soft_wrap=True)
        report = None
        if check and plan.missing and precision != "fp32":
            progress.update(task, description=f"comparing {precision} with {plan.bundle.precision} on the CPU")
            report = _compare(plan.bundle, precision)
            _give_memory_back()
            progress.console.print(
                f"{precision} against {plan.bundle.precision} on the CPU: {report.line()}", soft_wrap=True
            )
            if report.nonfinite or report.recall.recall < BROKEN:
                progress.console.print("That is too far off: nothing was built. With --no-check it is built anyway.")
                return False
            if not report.passed:
                warning = f"Less than {SHARE:.0%} is found again" if report.recall.counted else "That proves nothing"
                progress.console.print(
                    f"{warning}: compare on your own pictures before you use it.", soft_wrap=True, style="yellow"
                )
        engines = plan.build(lambda step: progress.update(task, description=step))
    if json is not None:
        facts = {**engines.to_json(), "folder": str(engines.folder), "built": engines.built}
        facts["compute_capabilities"] = engine_targets(engines.flavor, engines.recipe, engines.gpu)
        facts["check"] = None if report is None else report.line()
        atomic_write_text(json, json_module.dumps(facts, indent=1) + "\n")
    console.print(engine_table(engines))
    if engines.built:
        console.print(f"Built {', '.join(engines.built)} in {engines.folder}", soft_wrap=True)
    else:
        console.print(f"Nothing to build: {engines.folder} is of this bundle, recipe and version", soft_wrap=True)
    if json is not None:
        console.print(f"Wrote {json}", soft_wrap=True)
    return True


def _compare(bundle: Bundle, precision: str) -> PrecisionReport:
    from glip_export.graphs.precision import converted_graphs
    from glip_export.parity.precision_check import check_precision

    graphs = converted_graphs(bundle, precision)
    return check_precision(bundle, graphs)


def _give_memory_back() -> None:
    """Has the C library return what the comparison freed, which is gigabytes, before builders need it."""
    with suppress(OSError, AttributeError):  # not Linux, or another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
