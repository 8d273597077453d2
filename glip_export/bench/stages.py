"""Where the time of a run went, and the statistics of many runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from glip_export.bench.timed_session import Call
from glip_export.graphs.contracts import BAKED, FUSION_HEAD, TEXT_ENCODER, VISION_BACKBONE

PREPROCESS, POSTPROCESS = "preprocess", "postprocess"
STAGES = (PREPROCESS, TEXT_ENCODER.name, VISION_BACKBONE.name, FUSION_HEAD.name, POSTPROCESS)
PERCENTILES = (50, 90, 95, 99)


class Times(TypedDict):
    """Statistics in milliseconds of one stage, or of the total, over all timed runs."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float


def account(start: float, end: float, calls: Sequence[Call]) -> dict[str, float]:
    """Milliseconds of each stage between start and end (seconds); they add up to the whole, nothing is left out.

    A graph's stage is its calls, a baked model's one of its own, which others do not have. What passes between calls
    belongs to postprocess after a fusion head call (boxes brought back to the picture), and to preprocess elsewhere:
    tokenizing, resizing, making the graphs' inputs.
    """
    stages = dict.fromkeys(stages_of(calls), 0.0)
    moment, gap = start, PREPROCESS
    for call in calls:
        stages[gap] += call.start - moment
        stages[call.graph] += call.end - call.start
        moment, gap = call.end, POSTPROCESS if call.graph in (FUSION_HEAD.name, BAKED.name) else PREPROCESS
    stages[gap] += end - moment
    return {name: 1000 * seconds for name, seconds in stages.items()}


def count_calls(calls: Sequence[Call]) -> dict[str, int]:
    """How often each stage ran; preparing and finishing run once each, whatever they hold."""
    counts = Counter(call.graph for call in calls)
    return {name: counts[name] if name not in (PREPROCESS, POSTPROCESS) else 1 for name in stages_of(calls)}


def stages_of(calls: Sequence[Call]) -> tuple[str, ...]:
    """STAGES, and after them that of a baked model where it ran."""
    return (*STAGES, BAKED.name) if any(call.graph == BAKED.name for call in calls) else STAGES


def summarize(milliseconds: Sequence[float]) -> Times:
    """Mean and percentiles (linear between the two nearest runs); of few runs the high ones are nearly the slowest."""
    values = np.asarray(milliseconds, np.float64)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(values, PERCENTILES))
    return Times(mean_ms=float(values.mean()), p50_ms=p50, p90_ms=p90, p95_ms=p95, p99_ms=p99)
