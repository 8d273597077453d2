"""What a GPU run measured, as a table, as Markdown, or as a plot: python benchmarks/gpu/report.py gpu-results"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent))

from context import OK, read

COLUMNS = ("p50 ms", "p90 ms", "text", "backbone", "head", "pictures/s", "x", "of peak", "detections")
REFERENCE = "published, fp32"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What run.py wrote.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables for the docs.")] = False,
    plot: Annotated[Path | None, typer.Option(help="A picture of it, .png or .svg; needs matplotlib.")] = None,
) -> None:
    """Show the timings and the profile of a run."""
    found = {path.stem: part for path in sorted(folder.glob("*--*.json")) if (part := read(path)) is not None}
    workloads = [part for name, part in found.items() if name.startswith("timings--") and part["status"] == OK]
    if not workloads:
        raise typer.BadParameter(f"{folder} has no timings that went well: run benchmarks/gpu/run.py --output {folder}")
    if markdown:
        typer.echo("\n".join(line for part in workloads for line in markdown_lines(part)))
        typer.echo("\n".join(profile_lines(found)))
    else:
        for part in workloads:
            show(part)
        typer.echo("\n".join(profile_lines(found)))
    if plot is not None:
        draw(workloads, plot)


def title(part: dict[str, Any]) -> str:
    """The workload, and what it ran on."""
    work = part["result"]["work"]
    height, width = work["size"]
    where = "a rehearsal on a CPU, whose times say nothing" if part["rehearsal"] else part["card"]
    return f"{height}x{width}, batch {work['batch']}, {work['prompt']} (T = {work['tokens']}); {where}"


def lines(part: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row's name and COLUMNS, or its name and why it is not there."""
    rows = part["result"]["rows"]
    reference = rows.get(REFERENCE, {}).get("total_ms", {}).get("p50")
    return [(name, *_cells(facts, reference)) for name, facts in rows.items()]


def show(part: dict[str, Any]) -> None:
    """On the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("row", *COLUMNS, title=title(part))
    for name, *cells in lines(part):
        table.add_row(name, *(cells if len(cells) > 1 else []))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for name, *cells in lines(part):
        if len(cells) == 1:
            console.print(f"{name}: {cells[0]}", markup=False)


def markdown_lines(part: dict[str, Any]) -> list[str]:
    """A table and, below it, what is not in it."""
    made = [title(part), "", f"| row | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    made += [f"| {' | '.join(row)} |" for row in lines(part) if len(row) > 2]
    made.append("")
    made += [f"- {row[0]}: {row[1]}" for row in lines(part) if len(row) == 2]
    return [*made, ""]


def profile_lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """Of each profile, what the stages' kernels are."""
    made = []
    for name, part in found.items():
        if not name.startswith("profile--stages") or part["status"] != OK:
            continue
        for stage, of in part["result"]["stages"].items():
            classes = ", ".join(f"{word} {each['ms']:.3f} ms" for word, each in list(of["classes"].items())[:5])
            made.append(
                f"{name.removeprefix('profile--')}, {stage}: {of['elapsed_ms']:.2f} ms, {of['launches']:.0f} launches, "
                f"{100 * of['gaps']:.0f} % gaps; {classes}"
            )
    return made


def draw(workloads: list[dict[str, Any]], path: Path) -> None:
    """A bar a row, the stages on one another."""
    try:
        import matplotlib
    except ImportError as error:
        raise typer.BadParameter("--plot needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(workloads), 1, figsize=(9, 1 + 3.2 * len(workloads)), squeeze=False)
    for axis, part in zip(axes[:, 0], workloads, strict=True):
        rows = {name: facts for name, facts in part["result"]["rows"].items() if "total_ms" in facts}
        names, left = list(rows), [0.0] * len(rows)
        for stage in ("text", "backbone", "head", "whole"):
            widths = [facts.get(f"{stage}_ms", {"p50": 0.0})["p50"] for facts in rows.values()]
            if any(widths):
                axis.barh(names, widths, left=left, label=stage)
            left = [before + width for before, width in zip(left, widths, strict=True)]
        axis.invert_yaxis()
        axis.set_title(title(part), fontsize=9)
        axis.set_xlabel("ms, p50 of each stage")
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _cells(facts: dict[str, Any], reference: float | None) -> tuple[str, ...]:
    if "total_ms" not in facts:
        word = "skipped" if "skipped" in facts else "failed"
        return (f"{word}: {facts.get(word, '')}",)
    total = facts["total_ms"]
    stages = tuple(f"{facts[f'{s}_ms']['p50']:.2f}" if f"{s}_ms" in facts else "" for s in ("text", "backbone", "head"))
    faster = f"{reference / total['p50']:.2f}" if reference else ""
    share = f"{100 * facts['share_of_peak']:.1f} %" if "share_of_peak" in facts else ""
    agreement = facts.get("agreement")
    same = "" if agreement is None else f"{agreement['found']}/{agreement['clear']}"
    if agreement is not None and not agreement["within"]:
        same += ", out of tolerance"
    rate = f"{facts['pictures_per_second']:.1f}"
    return f"{total['p50']:.2f}", f"{total['p90']:.2f}", *stages, rate, faster, share, same


if __name__ == "__main__":
    app()
