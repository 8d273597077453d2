"""Where a run's time went: nothing lost between the stages, and the percentiles."""

from __future__ import annotations

import numpy as np
import pytest

from glip_export.bench.stages import STAGES, account, count_calls, summarize
from glip_export.bench.timed_session import Call


def calls() -> list[Call]:
    """One picture, two captions; seconds on the clock."""
    return [
        Call("vision_backbone", 1.0, 3.0, 1),
        Call("text_encoder", 3.5, 4.0, 1, 7),
        Call("fusion_head", 4.25, 6.0, 1, 7, 3),
        Call("text_encoder", 6.5, 7.0, 1, 5),
        Call("fusion_head", 7.125, 8.0, 1, 5, 2),
    ]


def test_stages_add_up_to_the_total() -> None:
    stages = account(0.5, 9.0, calls())
    assert tuple(stages) == STAGES
    assert sum(stages.values()) == pytest.approx(8500, rel=1e-12)


def test_gaps_after_the_fusion_head_are_postprocess_and_all_others_preprocess() -> None:
    assert account(0.5, 9.0, calls()) == {
        "preprocess": 500 + 500 + 250 + 125,
        "text_encoder": 1000,
        "vision_backbone": 2000,
        "fusion_head": 1750 + 875,
        "postprocess": 500 + 1000,
    }


def test_calls_are_counted_by_stage() -> None:
    assert count_calls(calls()) == {
        "preprocess": 1, "text_encoder": 2, "vision_backbone": 1, "fusion_head": 2, "postprocess": 1,
    }  # fmt: skip


def test_percentiles_are_linear_between_runs() -> None:
    times = summarize([float(value) for value in range(101)][::-1])
    assert times == {"mean_ms": 50, "p50_ms": 50, "p90_ms": 90, "p95_ms": 95, "p99_ms": 99}
    assert summarize([10.0, 20.0])["p90_ms"] == pytest.approx(19)
    assert summarize([7.0]) == dict.fromkeys(("mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms"), 7.0)


def test_the_mean_stages_add_up_to_the_mean_total() -> None:
    random = np.random.default_rng(0)
    runs = random.uniform(1, 50, (20, len(STAGES)))
    stages = sum(summarize(list(column))["mean_ms"] for column in runs.T)
    assert stages == pytest.approx(summarize(list(runs.sum(axis=1)))["mean_ms"])
