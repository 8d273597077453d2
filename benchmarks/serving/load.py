"""Open-loop load on `glip-export serve` from a second process: latencies, capacity, and four times the capacity.

python benchmarks/serving/load.py --bundle engines/demo --json load.json
python benchmarks/serving/load.py --bundle engines/demo --batching --json batching.json

Every accepted answer is compared with the Detector's own for that picture alone. Exits with 1 unless under overload all
of them are right, nothing but 429 is refused, the 99th percentile is under the deadline and memory stays flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
from expected import Case, Differences, make_cases
from raw_http import Reply, detect, send
from server_process import ServerProcess, running_server

from glip_export import Detector
from glip_export.bench.machine import describe_machine
from glip_export.bundle import newest_bundle
from glip_export.files import atomic_write_text

SIZES = ((320, 256), (256, 320), (448, 256))
SMALL_SIZES = ((96, 64),)
RATES = (0.25, 0.5, 0.75, 0.9)  # of the capacity
BATCHES = (1, 4, 8)
OVERLOAD = 4.0
GROWTH = 0.05


@dataclass
class Outcome:
    """What became of the requests of one load."""

    rate: float | None = None  # a second; None where each client waits for its answer
    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)  # of those accepted, seconds
    refusals: list[float] = field(default_factory=list)  # of those refused
    differences: Differences = field(default_factory=Differences)
    memory: list[tuple[float, float]] = field(default_factory=list)  # (seconds, MB)

    def add(self, case: Case, reply: Reply | None, seconds: float) -> None:
        """Counts one answer and compares it."""
        status = "none" if reply is None else str(reply.status)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if reply is not None and reply.status == 200:
            self.latencies.append(seconds)
            self.differences.add(case, reply.json()["results"][0])
        else:
            self.refusals.append(seconds)

    def summary(self) -> dict[str, Any]:
        """For JSON and the table."""
        found = self.differences
        return {
            "offered_per_second": self.rate,
            "seconds": round(self.seconds, 1),
            "answered_per_second": round(len(self.latencies) / self.seconds, 3),
            "statuses": self.statuses,
            "latency_ms": percentiles(self.latencies),
            "refusal_ms": percentiles(self.refusals),
            "compared": found.compared,
            "wrong": found.wrong,
            "first_wrong": found.first_wrong,
            "worst_box_px": found.box,
            "worst_score": found.score,
        }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p90, p99 and max in ms."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    at = {f"p{share}": ordered[min(len(ordered) * share // 100, len(ordered) - 1)] for share in (50, 90, 99)}
    return {name: round(value * 1000, 1) for name, value in {**at, "max": ordered[-1]}.items()}


class Load:
    """Requests to one server, pictures and prompts in random order, every picture new to it unless `repeat`."""

    def __init__(self, server: ServerProcess, cases: list[Case], deadline: float, repeat: bool = False) -> None:
        self._address = (server.host, server.port)
        self._process = psutil.Process(server.process.pid)
        self._cases = cases
        self._timeout = deadline + 30
        self._repeat = repeat
        self._random = random.Random(0)

    def closed(self, clients: int, seconds: float) -> Outcome:
        """So many clients, each waiting for its answer: what the server can do."""

        async def run() -> Outcome:
            outcome, started = Outcome(), time.perf_counter()

            async def client() -> None:
                while time.perf_counter() - started < seconds:
                    await self._ask(outcome)

            await asyncio.gather(*(client() for _ in range(clients)))
            outcome.seconds = time.perf_counter() - started
            return outcome

        return asyncio.run(run())

    def open(self, rate: float, seconds: float) -> Outcome:
        """So many requests a second at random moments (Poisson), whether or not earlier ones are answered."""

        async def run() -> Outcome:
            outcome, started = Outcome(rate=round(rate, 3)), time.perf_counter()
            watching = asyncio.ensure_future(self._watch(outcome, started))
            tasks = []
            due = 0.0
            while (due := due + self._random.expovariate(rate)) < seconds:
                await asyncio.sleep(max(due - (time.perf_counter() - started), 0))
                tasks.append(asyncio.ensure_future(self._ask(outcome)))
            await asyncio.gather(*tasks)
            outcome.seconds = time.perf_counter() - started
            watching.cancel()
            return outcome

        return asyncio.run(run())

    async def _ask(self, outcome: Outcome) -> None:
        case = self._random.choice(self._cases)
        picture = case.picture if self._repeat else case.fresh_picture()
        started = time.perf_counter()
        reply: Reply | None
        try:
            reply = await send(self._address, detect(picture, case.prompt), self._timeout)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            reply = None
        outcome.add(case, reply, time.perf_counter() - started)

    async def _watch(self, outcome: Outcome, started: float) -> None:
        while True:
            outcome.memory.append((time.perf_counter() - started, self._process.memory_info().rss / 1e6))
            await asyncio.sleep(0.25)


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
    options = [
        *("--backend", given.backend, "--max-batch", str(max_batch), "--deadline-ms", str(given.deadline_ms)),
        *("--image-cache", "16"),  # MB: full within seconds, so that its filling is not taken for a leak
        *(() if given.threads is None else ("--threads", str(given.threads))),
        *given.option,
    ]
    deadline = given.deadline_ms / 1000
    with running_server(given.bundle, options) as server:
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
    parser.add_argument("--batching", action="store_true", help=f"compare --max-batch {BATCHES}, without overload")
    parser.add_argument(
        "--repeat", action="store_true", help="the same pictures again, whose features the server holds"
    )
    parser.add_argument("--small", action="store_true", help="pictures of 96 x 64, for tests")
    parser.add_argument("--rate", type=float, action="append", help=f"share of the capacity; by default {RATES}")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load below the capacity")
    parser.add_argument("--overload-seconds", type=float, default=60.0, help=f"of {OVERLOAD:g} times the capacity")
    parser.add_argument("--clients", type=int, default=4, help="that find the capacity")
    parser.add_argument("--deadline-ms", type=int, default=10_000)
    parser.add_argument("--option", action="append", default=[], help="a word for glip-export serve; repeat")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.bundle = given.bundle or newest_bundle()
    given.rate = given.rate or list(RATES)
    if given.batching:
        given.overload_seconds = 0
    detector = Detector.open(given.bundle, given.backend, given.threads)
    cases = make_cases(detector, SMALL_SIZES if given.small else SIZES)
    machine = describe_machine()
    del detector
    runs = []
    for max_batch in BATCHES if given.batching else (given.max_batch,):
        runs.append(measure(given, cases, max_batch))
        print_run(runs[-1])
    document = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
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
