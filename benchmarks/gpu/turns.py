"""Rows that take turns on one device, A B A B, each stage between marks of the device's own clock."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

Stages = Sequence[tuple[str, Callable[[], Any]]]  # in their order; the last one's result is the row's

LEAST_ROUNDS = 3


class Clock(Protocol):
    """A device's clock."""

    def mark(self) -> Any:
        """A point in the order of the work, taken without waiting."""
        ...

    def between(self, marks: Sequence[Any]) -> list[float]:
        """Waits for the last, and gives the milliseconds from each to the next."""
        ...


class EventClock:
    """CUDA events on PyTorch's current stream."""

    def mark(self) -> Any:
        """See `Clock`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, marks: Sequence[Any]) -> list[float]:
        """See `Clock`."""
        marks[-1].synchronize()
        return [first.elapsed_time(second) for first, second in itertools.pairwise(marks)]


class WallClock:
    """Of a CPU, which does everything at once."""

    def mark(self) -> Any:
        """See `Clock`."""
        return time.perf_counter()

    def between(self, marks: Sequence[Any]) -> list[float]:
        """See `Clock`."""
        return [1000 * (second - first) for first, second in itertools.pairwise(marks)]


@dataclass(frozen=True)
class Row:
    """One way to run the work; `mode` is entered around each of its turns, outside the clock."""

    name: str
    prepare: Callable[[], Stages]
    mode: Callable[[], AbstractContextManager[Any]] = nullcontext
    facts: dict[str, Any] = field(default_factory=dict)
    notes: Callable[[], dict[str, Any]] = dict  # more facts, asked for after the last turn
    warm: int = 3  # runs before the first turn


def take_turns(
    rows: Sequence[Row], clock: Clock, rounds: int, seconds: float, warm: int = 0, device: str = "cpu"
) -> dict[str, dict[str, Any]]:
    """Each row's facts, times and result (under "result"), or, where it failed, its words under "failed".

    Every row is prepared and run `warm` times (0: as the row says). Then, round by round, each that still lives runs
    once, until there are `rounds` of them or `seconds` have passed since the first, never fewer than LEAST_ROUNDS.
    A row that fails is left out from then on and the others go on.
    """
    found: dict[str, dict[str, Any]] = {}
    living: dict[str, tuple[Row, Stages]] = {}
    for row in rows:
        found[row.name] = dict(row.facts)
        try:
            with row.mode():
                stages = row.prepare()
                found[row.name] |= _warm_up(stages, warm or row.warm, device)
        except Exception as error:  # whatever a library raises, the other rows are worth their time
            found[row.name]["failed"] = words(error)
        else:
            living[row.name] = row, stages
    times: dict[str, list[list[float]]] = {name: [] for name in living}
    start = time.perf_counter()
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.perf_counter() - start > seconds:
            break
        for name, (row, stages) in list(living.items()):
            try:
                with row.mode():
                    times[name].append(_once(stages, clock))
            except Exception as error:
                found[name]["failed"] = words(error)
                del living[name]
    for name, (row, stages) in living.items():
        found[name] |= summary([stage for stage, _ in stages], times[name]) | row.notes()
    return found


def summary(stages: Sequence[str], runs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """p50 and p90 in milliseconds of the whole and of each stage, and how many runs they are of.

    runs: for each, the device's milliseconds of every stage and, last, the host's of the whole.
    """
    table = np.array(runs)  # (runs, stages + 1)
    columns = {"total_ms": table[:, :-1].sum(1), "host_ms": table[:, -1]}
    columns |= {f"{name}_ms": table[:, place] for place, name in enumerate(stages)}
    return {
        "runs": len(table),
        **{name: {"p50": _at(values, 50), "p90": _at(values, 90)} for name, values in columns.items()},
    }


def words(error: Exception) -> str:
    """What failed, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _warm_up(stages: Stages, warm: int, device: str) -> dict[str, Any]:
    """The first runs: their result, how long the very first took, and PyTorch's own memory beyond what was there."""
    cuda = torch.device(device).type == "cuda"
    start = time.perf_counter()
    result = _run(stages)
    facts: dict[str, Any] = {"first_s": round(time.perf_counter() - start, 3)}
    for _ in range(warm - 1):
        result = _run(stages)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = _run(stages)
        torch.cuda.synchronize()
        facts["working_mb"] = round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)
    return {**facts, "result": result}


def _run(stages: Stages) -> Any:
    result = None
    for _, stage in stages:
        result = stage()
    return result


def _once(stages: Stages, clock: Clock) -> list[float]:
    """Milliseconds of each stage on the device's clock and, last, of the whole on the host's."""
    start = time.perf_counter()
    marks = [clock.mark()]
    for _, stage in stages:
        stage()
        marks.append(clock.mark())
    between = clock.between(marks)
    return [*between, 1000 * (time.perf_counter() - start)]


def _at(values: np.ndarray, percentile: float) -> float:
    return round(float(np.percentile(values, percentile)), 4)
