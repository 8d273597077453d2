"""glip-export verify: a bundle against the PyTorch reference, as a table, as JSON, as a verdict."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glip_export.cli.console import console, steps_progress
from glip_export.cli.options import Backends, BundleArgument, JsonOption, Threads, WeightsAgain, bundle_or_newest
from glip_export.cli.outputs import bundle_files, check_outputs

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.runtime.session import Session


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

    where = bundle_or_newest(bundle)
    check_outputs({"--json": json}, [weights, *bundle_files(where)])
    if not run(where, weights, tuple(backend or ("onnxruntime",)), quick, trace, threads, json):
        raise typer.Exit(1)


def run(
    path: Path,
    weights: str | None,
    backends: Sequence[str],
    quick: bool,
    trace: bool,
    threads: int | None,
    json: Path | None,
) -> bool:
    """Prints the report, writes it as JSON; True if every backend is within tolerance."""
    from glip_export.bundle import Bundle
    from glip_export.bundle.files import atomic_write_text
    from glip_export.errors import BundleError
    from glip_export.parity.cases import built_in_cases
    from glip_export.parity.ladder import climb_all
    from glip_export.parity.report import ParityReport
    from glip_export.runtime.backends import open_session

    bundle = Bundle.open(path, anew=True)
    if bundle.precision == "int8":
        raise BundleError(
            f"{path} is int8, and PyTorch's numbers are no measure of that: verify the fp32 bundle that it was made "
            f"from, and measure this one with glip-export eval coco --bundle {path}"
        )
    cases = built_in_cases(bundle.config, bundle.image_size, quick)
    with steps_progress() as progress:
        task = progress.add_task("loading the reference")
        reference = open_session(bundle, "torch", threads, None if weights is None else Path(weights))
        candidates = [open_session(bundle, backend, threads) for backend in backends]
        results = climb_all(
            reference, candidates, bundle.config, cases, progress=lambda step: progress.update(task, description=step)
        )
        if trace:
            progress.update(task, description="tracing")
            console.print(_first_difference(reference, bundle), soft_wrap=True)
    report = ParityReport(tuple(results), bundle.versions)
    if json is not None:
        atomic_write_text(json, json_module.dumps(report.to_dict(), indent=1) + "\n")
    console.print(report.table())
    if json is not None:
        console.print(f"Wrote {json}", soft_wrap=True)
    return report.passed


def _first_difference(reference: Session, bundle: Bundle) -> str:
    """Where the ONNX graphs start to differ from PyTorch, in one sentence."""
    from glip_export.parity.cases import built_in_cases
    from glip_export.parity.metrics import Tolerance
    from glip_export.parity.trace import first_outside, trace
    from glip_export.runtime.torch_session import TorchSession

    assert isinstance(reference, TorchSession)  # what open_session gives for "torch"
    inputs = built_in_cases(bundle.config, bundle.image_size, quick=True)[0].inputs(bundle.config)
    steps = trace(reference.model, bundle, inputs)
    first = first_outside(steps, Tolerance())
    if first is not None:
        return f"The first module out of tolerance is {first.module}: max|difference| / rms {first.relative:.1e}."
    if not steps:
        return "No module's output was found in the graphs: nothing was traced."
    worst = max(steps, key=lambda step: step.relative)
    return (
        f"All {len(steps)} module outputs found in the graphs are within tolerance; "
        f"the furthest off is {worst.module}: max|difference| / rms {worst.relative:.1e}."
    )
