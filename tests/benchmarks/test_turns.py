"""Rows take turns; one that fails is recorded and the others go on."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

import itertools

from turns import LEAST_ROUNDS, Row, summary, take_turns


class CountingClock:
    """A millisecond for each stage that has run."""

    def __init__(self) -> None:
        self.now = 0.0

    def mark(self) -> float:
        return self.now

    def between(self, marks: Sequence[Any]) -> list[float]:
        return [second - first for first, second in itertools.pairwise(marks)]


def row(name: str, log: list[str], clock: CountingClock, cost: float, fails_at: int = -1) -> Row:
    def stage(which: str) -> Any:
        def run() -> str:
            log.append(name)
            if log.count(name) == fails_at:
                raise RuntimeError("out of\nmemory")
            clock.now += cost
            return which

        return run

    return Row(name, lambda: [("one", stage("one")), ("two", stage("two"))], facts={"precision": "fp32"})


def test_rows_take_turns() -> None:
    log, clock = [], CountingClock()
    found = take_turns([row("a", log, clock, 1), row("b", log, clock, 3)], clock, rounds=4, seconds=60, warm=2)
    assert log == ["a"] * 4 + ["b"] * 4 + ["a", "a", "b", "b"] * 4
    assert found["a"]["total_ms"] == {"p50": 2, "p90": 2} and found["b"]["total_ms"] == {"p50": 6, "p90": 6}
    assert found["b"]["one_ms"]["p50"] == 3 and found["b"]["runs"] == 4
    assert found["a"]["result"] == "two" and found["a"]["precision"] == "fp32"


@pytest.mark.parametrize(("fails_at", "others"), [(1, 3), (9, 3)])
def test_a_row_that_fails_is_recorded_and_the_others_go_on(fails_at: int, others: int) -> None:
    log, clock = [], CountingClock()
    rows = [row("a", log, clock, 1, fails_at), row("b", log, clock, 1)]
    found = take_turns(rows, clock, rounds=others, seconds=60)
    assert found["a"]["failed"] == "RuntimeError: out of memory" and "total_ms" not in found["a"]
    assert "failed" not in found["b"] and found["b"]["runs"] == others
    json.dumps({name: {key: value for key, value in facts.items() if key != "result"} for name, facts in found.items()})


def test_time_ends_the_rounds_but_not_before_there_are_some() -> None:
    log, clock = [], CountingClock()
    found = take_turns([row("a", log, clock, 1)], clock, rounds=50, seconds=0)
    assert found["a"]["runs"] == LEAST_ROUNDS


def test_percentiles_are_of_each_stage_and_of_the_sum() -> None:
    found = summary(["one", "two"], [[n, 100 - n, 200 + n] for n in range(101)])
    assert found["one_ms"] == {"p50": 50, "p90": 90}
    assert found["total_ms"] == {"p50": 100, "p90": 100}
    assert found["host_ms"] == {"p50": 250, "p90": 290}
