"""Open-loop load on `glip-export serve` from a second process: latencies, capacity, and four times the capacity.

python benchmarks/serving/load.py --bundle engines/demo --json load.json
python benchmarks/serving/load.py --bundle engines/demo --batching --json batching.json

Every accepted answer is compared with the Detector's own for that picture alone. Exits with 1 unless under overload all
of them are right, nothing but 429 is refused, the 99th percentile is under the deadline and memory stays flat.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from expected import Case, make_cases
from loads import Load, Outcome
from server_process import running_server

from glip_export import Detector
from glip_export.bench.machine import describe_machine
from glip_export.bundle import newest_bundle
from glip_export.bundle.files import atomic_write_text

SIZES = ((320, 256), (256, 320), (448, 256))
SMALL_SIZES = ((96, 64),)
RATES = (0.25, 0.5, 0.75, 0.9)  # of the capacity
BATCHES = (1, 4, 8)
ROUNDS = 3  # of the comparison of BATCHES
OVERLOAD = 4.0
GROWTH = 0.05


def server_options(given: argparse.Namespace, max_batch: int) -> list[str]:
    """Of `glip-export serve`. The cache, in MB, is full within seconds: its filling is not to be taken for a leak."""
    return [
        *("--backend", given.backend, "--max-batch", str(max_batch), "--deadline-ms", str(given.deadline_ms)),
        *("--image-cache", "256" if given.repeat else "16"),
        *(() if given.threads is None else ("--threads", str(given.threads))),
        *given.option.split(),
    ]


def compare_batching(given: argparse.Namespace, cases: list[Case]) -> list[dict[str, Any]]:
    """A server for each of BATCHES, loaded in turn, A B C A B C, so that a machine that slows down slows all down."""
    deadline = given.deadline_ms / 1000
    with contextlib.ExitStack() as servers:
        loads = {
            batch: Load(
                servers.enter_context(running_server(given.bundle, server_options(given, batch))),
                cases,
                deadline,
                given.repeat,
            )
            for batch in BATCHES
        }
        for load in loads.values():
            load.closed(given.clients, given.seconds / 3)  # warms up
        rate = 0.0
        full: dict[int, list[Outcome]] = {batch: [] for batch in BATCHES}
        partly: dict[tuple[int, float], list[Outcome]] = {}
        for _ in range(ROUNDS):
            for batch, load in loads.items():
                full[batch].append(load.closed(given.clients, given.seconds))
            rate = rate or len(full[BATCHES[0]][0].latencies) / full[BATCHES[0]][0].seconds
            for share in given.rate:
                for batch, load in loads.items():
                    partly.setdefault((batch, share), []).append(load.open(rate * share, given.seconds))
    return [
        {
            "max_batch": batch,
            "capacity_per_second": round(statistics.median(len(one.latencies) / one.seconds for one in full[batch]), 3),
            "capacity": [one.summary() for one in full[batch]],
            "rates": [
                {"share": share, "rounds": [one.summary() for one in partly[batch, share]]} for share in given.rate
            ],
        }
        for batch in BATCHES
    ]


def print_batching(runs: list[dict[str, Any]]) -> None:
    """One line a batch size: medians over the rounds."""

    def median(rounds: list[dict[str, Any]], name: str) -> float:
        return statistics.median(one["latency_ms"].get(name, float("nan")) for one in rounds)

    for run in runs:
        line = f"max batch {run['max_batch']}: {run['capacity_per_second']:6.2f} pictures/s"
        for load in run["rates"]:
            rounds = load["rounds"]
            line += f"; at {rounds[0]['offered_per_second']:.2f}/s p50 {median(rounds, 'p50'):.0f} ms"
            line += f" p99 {median(rounds, 'p99'):.0f} ms"
        wrong = sum(one["wrong"] for one in [*run["capacity"], *(r for load in run["rates"] for r in load["rounds"])])
        print(f"{line}; wrong {wrong}", flush=True)


def memory_growth(outcome: Outcome) -> dict[str, float]:
    """The last sixth of the time against the first sixth, which begins when the queue is full."""
    sixth = outcome.memory[-1][0] / 6
    first = statistics.median(mb for at, mb in outcome.memory if at < sixth)
    last = statistics.median(mb for at, mb in outcome.memory if at > 5 * sixth)
    return {
        "first_mb": round(first, 1),
        "last_mb": round(last, 1),
        "peak_mb": round(max(mb for _, mb in outcome.memory), 1),
        "growth": round(last / first - 1, 4),
    }


def measure(given: argparse.Namespace, cases: list[Case], max_batch: int) -> dict[str, Any]:
    """Capacity, latencies below it, and what happens far above it, on a server of its own."""
    deadline = given.deadline_ms / 1000
    with running_server(given.bundle, server_options(given, max_batch)) as server:
        load = Load(server, cases, deadline, given.repeat)
        load.closed(1, given.seconds / 6)  # warms up
        alone = load.closed(1, given.seconds / 3)
        full = load.closed(given.clients, given.seconds)
        capacity = len(full.latencies) / full.seconds
        report: dict[str, Any] = {
            "max_batch": max_batch,
            "capacity_per_second": round(capacity, 3),
            "one_client": alone.summary(),
            "capacity": full.summary(),
            "rates": [load.open(capacity * share, given.seconds).summary() for share in given.rate],
        }
        if given.overload_seconds:
            rate = capacity * OVERLOAD
            load.open(rate, min(10.0, given.overload_seconds / 3))  # fills the queue and the allocators once
            outcome = load.open(rate, given.overload_seconds)
            report["overload"] = {**outcome.summary(), "memory": memory_growth(outcome)}
            report["failures"] = failures(report["overload"], deadline)
        code = server.stop()
        if code or "Traceback" in server.read_log():
            report.setdefault("failures", []).append(f"the server ended with {code}: {server.read_log()[-2000:]}")
    return report


def failures(overload: dict[str, Any], deadline: float) -> list[str]:
    """What an overload may not do."""
    found = []
    others = {status: count for status, count in overload["statuses"].items() if status not in ("200", "429")}
    if others:
        found.append(f"answers that are neither 200 nor 429: {others}")
    if not overload["statuses"].get("200") or not overload["statuses"].get("429"):
        found.append(f"no overload: {overload['statuses']}")
    if overload["wrong"]:
        found.append(f"{overload['wrong']} wrong answers, first {overload['first_wrong']}")
    if overload["latency_ms"].get("p99", 0) > deadline * 1000:
        found.append(f"p99 {overload['latency_ms']['p99']} ms is over the deadline")
    if overload["memory"]["growth"] > GROWTH:
        found.append(f"memory grew by {overload['memory']['growth']:.1%}")
    return found


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="by default the newest under engines/")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--threads", type=int, help="of the server; by default all cores")
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--batching", action="store_true", help=f"compare --max-batch {BATCHES} instead")
    parser.add_argument(
        "--repeat", action="store_true", help="the same pictures again, whose features the server holds"
    )
    parser.add_argument("--small", action="store_true", help="pictures of 96 x 64, for tests")
    parser.add_argument("--rate", type=float, action="append", help=f"share of the capacity; by default {RATES}")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load below the capacity")
    parser.add_argument("--overload-seconds", type=float, default=60.0, help=f"of {OVERLOAD:g} times the capacity")
    parser.add_argument("--clients", type=int, default=4, help="that find the capacity")
    parser.add_argument("--deadline-ms", type=int, default=10_000)
    parser.add_argument("--option", default="", help="words for glip-export serve")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.bundle = given.bundle or newest_bundle()
    given.rate = given.rate or list(RATES)
    detector = Detector.open(given.bundle, given.backend, given.threads)
    cases = make_cases(detector, SMALL_SIZES if given.small else SIZES)
    machine = describe_machine()
    del detector
    if given.batching:
        runs = compare_batching(given, cases)
        print_batching(runs)
    else:
        runs = [measure(given, cases, given.max_batch)]
        print_run(runs[0])
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "load_average": psutil.getloadavg(),
        "bundle": given.bundle.name,
        "backend": given.backend,
        "repeat": given.repeat,
        "deadline_ms": given.deadline_ms,
        "requests": len(cases),
        "runs": runs,
    }
    if given.json is not None:
        atomic_write_text(given.json, json.dumps(document, indent=1) + "\n")
    problems = [problem for run in runs for problem in run.get("failures", [])]
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def print_run(run: dict[str, Any]) -> None:
    """One line a load."""
    print(f"max batch {run['max_batch']}: {run['capacity_per_second']:.2f} pictures/s")
    loads = [("one client", run["one_client"]), ("full", run["capacity"])]
    loads += [(f"{load['offered_per_second']:.2f}/s", load) for load in run["rates"]]
    loads += [("overload", run["overload"])] if "overload" in run else []
    for name, load in loads:
        answered, latency = load["answered_per_second"], load["latency_ms"]
        print(f"  {name:12} {answered:7.2f}/s  {latency}  {load['statuses']}  wrong {load['wrong']}", flush=True)
    if "overload" in run:
        print(f"  memory {run['overload']['memory']}", flush=True)


if __name__ == "__main__":
    main()
