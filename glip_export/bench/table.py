"""The report on the screen: one row a backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text


def times_table(report: Mapping[str, Any]) -> Table:
    """Medians of each stage and of the whole, in ms."""
    runs = report["runs"]
    first = runs[0]
    prompts = f", {first['prompts_per_image']} prompts a picture" if first["prompts_per_image"] > 1 else ""
    title = (
        f"{report['bundle']['name']}, batch {first['batch']} of {first['image_size']}, {first['classes']} name(s)"
        f"{prompts}: median of {first['rounds']} run(s), ms"
    )
    table = Table(title=title)
    table.add_column("backend", overflow="fold")
    stages = tuple(dict.fromkeys(stage for run in runs for stage in run["stages"]))
    for column in (*(stage.replace("_", " ") for stage in stages), "total", "p95", "images/s", "x torch"):
        table.add_column(column, justify="right")
    for run in runs:
        total = run["total"]
        table.add_row(
            run["backend"],
            *(_stage(run["stages"].get(stage)) for stage in stages),
            Text(milliseconds(total["p50_ms"]), "bold"),
            milliseconds(total["p95_ms"]),
            f"{run['images_per_second']:.3g}",
            _number(run["speedup_vs_torch_plain"], ".2f"),
        )
    return table


def costs_table(report: Mapping[str, Any]) -> Table:
    """Memory, loading, work done, and whether the detections are the reference's."""
    table = Table(caption=_peaks(report["machine"]))
    table.add_column("backend", overflow="fold")
    for column in ("tokens", "load s", "peak MB", "GMAC/image", "of peak", "box px", "score"):
        table.add_column(column, justify="right")
    table.add_column("detections")
    for run in report["runs"]:
        table.add_row(
            run["backend"],
            str(run["tokens"]),
            f"{run['load_s']:.1f}",
            _number(run["peak_rss_mb"], ".0f"),
            _number(run["gmac_per_image"], ".4g"),
            _number(run["share_of_peak"], ".0%"),
            _number(run["max_box_diff_px"], ".2g"),
            _number(run["max_score_diff"], ".1e"),
            _verdict(run["agreement"]) if len(report["runs"]) > 1 else "nothing to compare",
        )
    return table


def milliseconds(value: float) -> str:
    """Three digits where they matter: 0.41, 15.3, 482, 21340."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _stage(stage: Mapping[str, Any] | None) -> str:
    if stage is None or stage["calls"] == 0:
        return "-"
    return milliseconds(stage["p50_ms"]) + (f" ({stage['calls']}x)" if stage["calls"] > 1 else "")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _verdict(agreement: Mapping[str, Any] | None) -> str | Text:
    if agreement is None:
        return "the reference"
    if not agreement["compared_anything"]:
        return "nothing to compare"
    if agreement["within_tolerance"]:
        return Text("as the reference", "green")
    lost = agreement["clear_detections"] - agreement["clear_found"]
    found = f": {agreement['real_differences']} differ, {lost} clear one(s) lost"
    return Text.assemble(("OUT OF TOLERANCE", "red"), found)


def _peaks(machine: Mapping[str, Any]) -> str | None:
    """measured matrix-multiply peak: fp32 140 GFLOP/s; bf16: not measured: why."""
    peaks = [f"{name} {value:.0f}" for name, value in machine["peak_gflops"].items() if value]
    measured = [f"measured matrix-multiply peak: {', '.join(peaks)} GFLOP/s"] if peaks else []
    return "; ".join(measured + [f"{name}: not measured: {why}" for name, why in machine["peak_not_measured"].items()])
