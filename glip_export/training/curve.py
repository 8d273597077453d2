"""The curve of a training run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glip_export.bundle.files import atomic_path
from glip_export.errors import GlipExportError

COLOURS = {"tokens": "#0072B2", "boxes": "#E69F00", "centerness": "#009E73"}  # Okabe and Ito's
SMOOTHED = 50  # steps


def plot_curve(history: Sequence[dict[str, float]], target: Path) -> None:
    """Writes a PNG: the three losses, smoothed, and the average precision, by step.

    Raises GlipExportError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise GlipExportError("a curve needs matplotlib: pip install 'glip-export[train]'") from error
    figure = Figure(figsize=(9, 4), layout="constrained")
    losses, precision = figure.subplots(1, 2)
    steps = np.array([record["step"] for record in history])
    for name, colour in COLOURS.items():
        values = np.array([record[name] for record in history])
        losses.plot(_smooth(steps.astype(float)), _smooth(values), color=colour, label=name)
    losses.set(xlabel="step", ylabel=f"loss, mean of {min(SMOOTHED, len(steps))} steps", yscale="log")
    losses.legend(frameon=False)
    measured = [record for record in history if "AP" in record]
    _plot_precision(precision, measured)
    for axes in (losses, precision):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=110)


def _plot_precision(axes: Any, measured: Sequence[dict[str, float]]) -> None:
    for name, colour in (("AP", "#0072B2"), ("AP50", "#56B4E9")):
        axes.plot(
            [record["step"] + 1 for record in measured],
            [record[name] for record in measured],
            color=colour,
            marker="o",
            markersize=3,
            label=name,
        )
    axes.set(xlabel="step", ylabel="average precision, held-out scenes", ylim=(0, 1))
    axes.legend(frameon=False)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running means over SMOOTHED values, or all of them if there are fewer."""
    width = min(SMOOTHED, len(values))
    return np.convolve(values, np.full(width, 1 / width), "valid")
