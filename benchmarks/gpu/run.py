"""Everything that a GPU has to say, in one command on a machine without network: python benchmarks/gpu/run.py

Steps run in order of value, each in a process of its own, within a budget of minutes. Every part of a step leaves one
JSON in the output folder as soon as it is done; started again with the same folder it goes on with what is missing,
was cut off or failed. With --rehearse the same runs on a CPU with small sizes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent))

from context import CUT_OFF, FAILED, OK, ROOT, SKIPPED, Context, CutOffError, read, run_part


@dataclass(frozen=True)
class Step:
    """A file step_NAME.py, whose `parts(context)` gives names and what measures them."""

    name: str
    seconds: float  # it may take no more
    text: str


STEPS = (
    Step("environment", 60, "the card, the packages, its measured peaks"),
    Step("kernels", 90, "our kernels against NumPy, all edge cases"),
    Step("parity", 150, "every backend against the CPU: demo, oracle, full size"),
    Step("timings", 150, "A B A B: the published form, torch:cuda, others"),
    Step("profile", 150, "where the time goes, by kernel, and what each fused module is good for"),
    Step("ap", 60, "AP of the demo model on held-out scenes"),
    Step("tests", 120, "tests/gpu"),
    Step("soak", 40, "many runs of changing shapes: memory and answers"),
    Step("sanitizer", 60, "compute-sanitizer over the kernels' tests"),
)
STYLES = {OK: "green", FAILED: "red", SKIPPED: "yellow", CUT_OFF: "red"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="The whole budget.")] = 8,
    output: Annotated[
        Path | None, typer.Option(help="Where the JSONs go. [default: gpu-results, or gpu-rehearsal]")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="These steps alone; may be repeated.")] = None,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="On this CPU, with small sizes.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Show the steps and what is done of them.")] = False,
    prepare: Annotated[bool, typer.Option("--prepare", help="Make what the run takes along into gpu-parcel/.")] = False,
    inner: Annotated[str, typer.Option(hidden=True)] = "",
    deadline: Annotated[float, typer.Option(hidden=True)] = 0.0,
) -> None:
    """Run the steps; see the file's own text."""
    folder = (output or ROOT / ("gpu-rehearsal" if rehearse else "gpu-results")).resolve()
    context = Context(folder, rehearse, deadline or time.time() + 60 * minutes)
    if inner:
        run_step(context, inner)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the step's process is ended too
    chosen = [step for step in STEPS if not only or step.name in only]
    if unknown := set(only or ()) - {step.name for step in STEPS}:
        raise typer.BadParameter(f"no step {', '.join(sorted(unknown))}: {', '.join(step.name for step in STEPS)}")
    if prepare:
        import parcel

        parcel.prepare(context.parcel)
    elif not show:
        run_all(context, chosen)
    raise typer.Exit(report(context, chosen))


def run_step(context: Context, name: str) -> None:
    """In the step's own process: the parts that are not done, one after another, while there is time."""
    from glip_export.processes import end_with_parent

    end_with_parent(os.getppid())
    module = importlib.import_module(f"step_{name}")
    for part, measure in module.parts(context):
        if context.is_done(name, part):
            continue
        if context.seconds_left <= 0:
            return
        run_part(context, name, part, measure)


def run_all(context: Context, steps: list[Step]) -> None:
    """Each step as a process with a limit, a bar over all of them."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    context.output.mkdir(parents=True, exist_ok=True)
    for unfinished in context.output.glob("*.partial-*"):  # an earlier run was ended in the middle of a write
        unfinished.unlink()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task("", total=len(steps))
        for step in steps:
            progress.update(bar, description=f"{step.name}: {step.text}")
            if context.seconds_left > 1:
                run_process(context, step)
            progress.advance(bar)


def run_process(context: Context, step: Step) -> None:
    """The step's process; what it prints goes into STEP.log, and why it ended early into STEP--process.json."""
    limit = min(step.seconds * (3 if context.rehearsal else 1), context.seconds_left)
    command = [sys.executable, str(Path(__file__).resolve()), "--inner", step.name, "--output", str(context.output)]
    command += ["--deadline", str(time.time() + limit)] + (["--rehearse"] if context.rehearsal else [])
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    if context.rehearsal:
        environment["OMP_NUM_THREADS"] = "1"  # more threads than free cores make PyTorch several times slower
    with open(context.output / f"{step.name}.log", "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        try:
            code = process.wait(limit + 5)  # it stops by itself between parts
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # its own children too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    context.file(step.name, "process").unlink(missing_ok=True)
    if code is None and not any(context.output.glob(f"{step.name}--*.json")):
        reason = f"no part of it began within {limit:.0f} s"

        def hang() -> dict[str, object]:
            raise CutOffError(reason)

        run_part(context, step.name, "process", hang)
    elif code:
        last = (context.output / f"{step.name}.log").read_text("utf-8", "replace").strip().splitlines()[-3:]
        reason = f"its process ended with {code}: {' / '.join(last)}"

        def fail() -> dict[str, object]:
            raise RuntimeError(reason)

        run_part(context, step.name, "process", fail)


def report(context: Context, steps: list[Step]) -> int:
    """The table of all parts that left a JSON; 1 if one failed or was cut off."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{context.output}{' (rehearsal on a CPU)' if context.rehearsal else ''}")
    for column in ("step", "part", "status", "seconds", "what it says"):
        table.add_column(column, overflow="fold")
    failed = 0
    for step in steps:
        files = [path for path in sorted(context.output.glob(f"{step.name}--*.json")) if ".partial-" not in path.name]
        for path in files:
            found = read(path)
            if found is None:
                continue
            failed += found["status"] in (FAILED, CUT_OFF)
            style = STYLES[found["status"]]
            seconds = "" if found["seconds"] is None else f"{found['seconds']:.1f}"
            words = found["reason"] or (found["result"] or {}).get("line", "")
            table.add_row(step.name, found["part"], f"[{style}]{found['status']}[/]", seconds, str(words)[:300])
        if not files:
            table.add_row(step.name, "", "not run", "", step.text)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return int(failed > 0)


if __name__ == "__main__":
    app()
