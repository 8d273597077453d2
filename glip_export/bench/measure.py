"""Several backends in turn, A B A B, each in its own process, so that a drifting machine favours none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from glip_export.bench.client import BackendProcess, WorkerProcess
from glip_export.bench.job import PLAIN, TRIMMED, Job
from glip_export.errors import BackendError
from glip_export.graphs.contracts import BAKED, GRAPHS, TEXT_ENCODER

PAUSE = 0.1  # seconds between two backends' turns: a thread pool spins for some 30 ms after its last work
MAX_SIZES = 4  # of one graph in one run; a prompt of many captions has more, and counting each takes seconds

Progress = Callable[[str], None]


class Runner(Protocol):
    """What `measure` needs of a backend; `BackendProcess` is one."""

    def load(self, job: Job, backend: str) -> dict[str, Any]: ...
    def run(self) -> dict[str, Any]: ...
    def outcome(self) -> dict[str, Any]: ...
    def count_with_torch(self) -> float: ...
    def close(self) -> None: ...


@dataclass
class Measurement:
    """What one backend did."""

    backend: str
    precision: str
    load_s: float
    runs: list[dict[str, Any]] = field(default_factory=list)  # timed ones: {"total_ms", "stages", "calls"}
    outcome: dict[str, Any] = field(default_factory=dict)  # memory, sizes, detections
    gmac_per_image: float | None = None  # counted by torch, for its own backend


def measure(
    job: Job,
    backends: Sequence[str],
    runs: int,
    warmup: int,
    count: bool = True,
    progress: Progress | None = None,
    open_runner: Callable[[str], Runner] = BackendProcess,
) -> list[Measurement]:
    """Loads every backend, warms each up, then times `runs` rounds in which each runs once.

    Only one works at a time; the others wait for their turn, loaded. count: have torch count its multiply-adds, in one
    more run. Raises BackendError where a backend cannot be opened or fails.
    """
    tell = progress or (lambda _: None)
    with ExitStack() as stack:
        runners, measurements = [], []
        for backend in backends:
            tell(f"loading {backend}")
            runner = open_runner(backend)
            stack.callback(runner.close)
            loaded = runner.load(job, backend)
            runners.append(runner)
            measurements.append(Measurement(backend, loaded["precision"], loaded["load_s"]))
        for number in range(warmup + runs):
            stage = f"warm-up {number + 1} of {warmup}" if number < warmup else f"run {number - warmup + 1} of {runs}"
            for runner, measurement in zip(runners, measurements, strict=True):
                tell(f"{stage}: {measurement.backend}")
                if len(runners) > 1:
                    time.sleep(PAUSE)
                result = runner.run()
                if number >= warmup:
                    measurement.runs.append(result)
        for runner, measurement in zip(runners, measurements, strict=True):
            measurement.outcome = runner.outcome()
            if count and measurement.backend in (PLAIN, TRIMMED):
                tell(f"counting the multiply-adds of {measurement.backend}")
                measurement.gmac_per_image = runner.count_with_torch()
    return measurements


def count_work(
    job: Job, measurements: Sequence[Measurement], progress: Progress | None = None, worker: WorkerProcess | None = None
) -> list[dict[str, float] | None]:
    """10^9 multiply-adds that one run of each measurement asks of each graph, counted from the bundle's graphs.

    None for torch, which does not run the graphs, and for a run whose captions come in too many sizes. Equal sizes are
    counted once. A baked model counts what backbone and head of the row counted first do. Raises BackendError where a
    graph holds what cannot be counted.
    """
    tell = progress or (lambda _: None)
    known: dict[tuple[str, int, int], float] = {}
    results: list[dict[str, float] | None] = []
    with nullcontext(worker) if worker is not None else WorkerProcess("counting") as process:
        for measurement in measurements:
            sizes = measurement.outcome["sizes"]
            kinds = {name: {_key(item) for item in sizes if item["graph"] == name} for name in GRAPHS}
            if any(item["graph"] == BAKED.name for item in sizes):
                results.append(_of_baked(results))
                continue
            if measurement.backend in (PLAIN, TRIMMED) or max(map(len, kinds.values())) > MAX_SIZES:
                results.append(None)
                continue
            for key in sorted(set().union(*kinds.values()) - known.keys()):
                tell(f"counting the multiply-adds of {key[0]}")
                known[key] = _count(process, job, key)
            work = dict.fromkeys(GRAPHS, 0.0)
            for item in sizes:
                work[item["graph"]] += known[_key(item)] * item["batch"] * item["calls"]
            results.append(work)
    return results


def _of_baked(results: Sequence[dict[str, float] | None]) -> dict[str, float] | None:
    counted = next((work for work in results if work is not None), None)
    if counted is None:
        return None
    return {**dict.fromkeys(GRAPHS, 0.0), BAKED.name: sum(counted.values()) - counted[TEXT_ENCODER.name]}


def measure_peak(threads: int | None) -> dict[str, Any]:
    """This machine's fastest matrix product, measured in a process of its own: see `matmul_peak`."""
    with WorkerProcess("matrix products") as process:
        return process.ask("matmul_peak", threads=threads)


def _key(item: dict[str, Any]) -> tuple[str, int, int]:
    return item["graph"], item["tokens"], item["classes"]


def _count(process: WorkerProcess, job: Job, key: tuple[str, int, int]) -> float:
    graph, tokens, classes = key
    try:
        return process.ask(
            "count_graph", bundle=job.bundle, graph=graph, size=job.image_size, tokens=tokens, classes=classes
        )
    except BackendError as error:
        raise BackendError(f"{error}; --no-cost leaves the counting out") from error
