"""The report as a picture: the stages of each backend, stacked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glip_export.bench.stages import STAGES
from glip_export.bench.table import milliseconds
from glip_export.bundle.files import atomic_path
from glip_export.errors import BackendError
from glip_export.graphs.contracts import BAKED

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = dict(
    zip((*STAGES, BAKED.name), ("#999999", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00"), strict=True)
)
NARROW = 0.045  # of the axis: a stage below that has no room for its number


def plot_stages(report: Mapping[str, Any], target: Path) -> None:
    """Writes a PNG: one bar a backend, its stages' mean times side by side, labelled in ms.

    Means, for they add up to the mean total; medians do not. Raises BackendError without matplotlib.
    """
    pyplot = load_pyplot()
    runs = report["runs"]
    figure, axes = pyplot.subplots(figsize=(10, 1.7 + 0.62 * len(runs)), layout="constrained")
    longest = max(run["total"]["mean_ms"] for run in runs)
    for row, run in enumerate(runs):
        left = 0.0
        for stage in run["stages"]:
            width = run["stages"][stage]["mean_ms"]
            axes.barh(row, width, left=left, color=COLOURS[stage], edgecolor="white", linewidth=0.5, height=0.66)
            if width > NARROW * longest:
                axes.text(left + width / 2, row, milliseconds(width), ha="center", va="center", fontsize=9)
            left += width
        axes.text(left + 0.01 * longest, row, _total(run), va="center", fontsize=9, fontweight="bold")
    axes.set_yticks(range(len(runs)), [f"{run['backend']}\n{run['precision']}, T = {run['tokens']}" for run in runs])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * longest)
    axes.set_xlabel("ms")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(_title(report), fontsize=10, loc="left")
    stages = tuple(dict.fromkeys(stage for run in runs for stage in run["stages"]))
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=COLOURS[stage]) for stage in stages]
    labels = [stage.replace("_", " ") for stage in stages]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(stages), frameon=False, fontsize=9)
    save(figure, target)


def load_pyplot() -> Any:
    """matplotlib.pyplot with the Agg backend, which needs no screen."""
    try:
        import matplotlib
    except ImportError as error:
        raise BackendError('a plot needs matplotlib: pip install "glip-export[bench]"') from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, target: Path) -> None:
    """Writes the PNG, whole or not at all."""
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    load_pyplot().close(figure)


def _total(run: Mapping[str, Any]) -> str:
    faster = run["speedup_vs_torch_plain"]
    ratio = f"  ({faster:.1f}x torch)" if faster is not None and run["backend"] != "torch" else ""
    wrong = run["agreement"] is not None and not run["agreement"]["within_tolerance"]
    return f"{milliseconds(run['total']['mean_ms'])} ms{ratio}{'  OUT OF TOLERANCE' if wrong else ''}"


def _title(report: Mapping[str, Any]) -> str:
    run, machine = report["runs"][0], report["machine"]
    threads = f"{run['threads']} threads"
    device = f", {machine['gpu']}" if machine["gpu"] else ""
    prompts = f", {run['prompts_per_image']} prompts a picture" if run["prompts_per_image"] > 1 else ""
    return (
        f"{report['bundle']['name']}, batch {run['batch']} of {run['image_size']}, {run['classes']} names{prompts}\n"
        f"{machine['cpu']}{device}, {threads}, mean of {run['rounds']} run(s), {report['date'][:10]}"
    )
