"""Load on a tritonserver with a repository of `glip-export triton`, on the CPU: capacity, percentiles, batch sizes.

python benchmarks/serving/triton_load.py --bundle engines/demo --json triton.json
python benchmarks/serving/triton_load.py --bundle engines/demo --setup 1:1 --setup 1:8 --setup 2:8 --repeat

Every answer is compared with the Detector's own for that picture alone; exits with 1 if one is wrong or missing. The
server is the one that `make triton-server` installs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from expected import Case, Differences, make_cases

from glip_export import Detector
from glip_export.bench.machine import describe_machine
from glip_export.bundle import newest_bundle
from glip_export.bundle.files import atomic_write_text
from glip_export.client.triton import TritonClient
from glip_export.errors import ServerError
from glip_export.serving.triton.repository import write_repository
from glip_export.serving.triton.settings import TritonSettings

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from triton_server import TritonServer, running, why_not

SIZES = ((320, 256), (256, 320), (448, 256))
SMALL_SIZES = ((96, 64),)
SETUPS = ("1:1", "1:8", "2:8")
RATES = (0.25, 0.5, 0.75, 0.9)  # of the capacity
AT_ONCE = 128  # requests under way


@dataclass
class Outcome:
    """What became of the requests of one load."""

    rate: float | None = None  # a second; None where each client waits for its answer
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds, from when the request was due
    errors: dict[str, int] = field(default_factory=dict)
    differences: Differences = field(default_factory=Differences)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def summary(self) -> dict[str, Any]:
        """For JSON and the table."""
        ordered = sorted(self.latencies)
        at = {f"p{share}": ordered[min(len(ordered) * share // 100, len(ordered) - 1)] for share in (50, 90, 99)}
        return {
            "offered_per_second": self.rate,
            "seconds": round(self.seconds, 1),
            "answered": len(ordered),
            "answered_per_second": round(len(ordered) / self.seconds, 3),
            "latency_ms": {name: round(value * 1000, 1) for name, value in {**at, "max": ordered[-1]}.items()},
            "errors": self.errors,
            "wrong": self.differences.wrong,
            "first_wrong": self.differences.first_wrong,
            "worst_box_px": self.differences.box,
            "worst_score": self.differences.score,
        }


class Load:
    """Requests to one server, pictures and prompts in random order, every picture new to it unless `repeat`."""

    def __init__(self, server: TritonServer, cases: list[Case], repeat: bool) -> None:
        self._server = server
        self._client = TritonClient(server.url)
        self._cases = cases
        self._repeat = repeat
        self._random = random.Random(0)

    def closed(self, clients: int, seconds: float) -> dict[str, Any]:
        """So many clients, each waiting for its answer: what the server can do."""
        outcome, started = Outcome(), time.perf_counter()

        def client(_: int) -> None:
            while time.perf_counter() - started < seconds:
                self._ask(outcome, time.perf_counter())

        return self._measured(outcome, clients, lambda pool: list(pool.map(client, range(clients))))

    def open(self, rate: float, seconds: float) -> dict[str, Any]:
        """So many requests a second at random moments (Poisson), whether or not earlier ones are answered."""
        outcome, started = Outcome(rate=round(rate, 3)), time.perf_counter()

        def send(pool: ThreadPoolExecutor) -> None:
            due, asked = 0.0, []
            while (due := due + self._random.expovariate(rate)) < seconds:
                time.sleep(max(due - (time.perf_counter() - started), 0))
                asked.append(pool.submit(self._ask, outcome, started + due))
            for one in asked:
                one.result()

        return self._measured(outcome, AT_ONCE, send)

    def _measured(self, outcome: Outcome, workers: int, run: Any) -> dict[str, Any]:
        before, started = self._statistics(), time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            run(pool)
        outcome.seconds = time.perf_counter() - started
        now = self._statistics()
        pictures, runs, queued = (now[key] - before[key] for key in ("pictures", "runs", "queue_ns"))
        return {
            **outcome.summary(),
            "mean_batch": round(pictures / max(runs, 1), 2),
            "mean_queue_ms": round(queued / max(pictures, 1) / 1e6, 1),
        }

    def _statistics(self) -> dict[str, int]:
        """Triton's own."""
        (model,) = json.loads(self._server.get("v2/models/glip/stats"))["model_stats"]
        queue = model["inference_stats"]["queue"]["ns"]
        return {"pictures": model["inference_count"], "runs": model["execution_count"], "queue_ns": queue}

    def _ask(self, outcome: Outcome, due: float) -> None:
        with outcome.lock:
            case = self._random.choice(self._cases)
        try:
            (found,) = self._client.detect([case.picture if self._repeat else case.fresh_picture()], case.prompt)
        except ServerError as error:
            with outcome.lock:
                outcome.errors[error.code] = outcome.errors.get(error.code, 0) + 1
            return
        seconds = time.perf_counter() - due
        with outcome.lock:
            outcome.latencies.append(seconds)
            outcome.differences.add(case, found.to_dict())


def measure(given: argparse.Namespace, cases: list[Case], setup: str) -> dict[str, Any]:
    """One setup, INSTANCES:MAX_BATCH, on a server of its own."""
    instances, max_batch = map(int, setup.split(":"))
    settings = TritonSettings(
        instances=instances,
        max_batch=max_batch,
        threads=given.threads,
        max_wait_us=given.max_wait_us,
        backend=given.backend,
        image_cache_bytes=256_000_000 if given.repeat else 0,
    )
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder, "repository")
        write_repository(given.bundle, repository, settings)
        with running(repository, Path(folder, "log")) as server:
            load = Load(server, cases, given.repeat)
            load.closed(1, given.seconds / 6)  # warms up
            alone = load.closed(1, given.seconds / 3)
            full = load.closed(given.clients, given.seconds)
            capacity = full["answered_per_second"]
            rates = [load.open(capacity * share, given.seconds) for share in given.rate]
            memory = sum(psutil.Process(pid).memory_info().rss for pid in server.stubs()) / 1e6
    return {
        "instances": instances,
        "max_batch": max_batch,
        "capacity_per_second": capacity,
        "memory_mb": round(memory, 1),
        "one_client": alone,
        "capacity": full,
        "rates": rates,
    }


def print_run(run: dict[str, Any]) -> None:
    """One line a load."""
    print(f"{run['instances']} instance(s), batches of up to {run['max_batch']}, {run['memory_mb']:.0f} MB:")
    loads = [("one client", run["one_client"]), ("full", run["capacity"])]
    loads += [(f"{load['offered_per_second']:.2f}/s", load) for load in run["rates"]]
    for name, load in loads:
        print(
            f"  {name:12} {load['answered_per_second']:7.2f}/s  {load['latency_ms']}  batch {load['mean_batch']}  "
            f"queue {load['mean_queue_ms']} ms  wrong {load['wrong']}  errors {load['errors']}",
            flush=True,
        )


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="by default the newest under engines/")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=0, help="of an instance; by default the cores are shared")
    parser.add_argument("--setup", action="append", metavar="INSTANCES:BATCH", help=f"by default {', '.join(SETUPS)}")
    parser.add_argument("--max-wait-us", type=int, default=2000)
    parser.add_argument("--repeat", action="store_true", help="the same pictures again, whose features are held")
    parser.add_argument("--small", action="store_true", help="pictures of 96 x 64, for tests")
    parser.add_argument("--rate", type=float, action="append", help=f"share of the capacity; by default {RATES}")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load")
    parser.add_argument("--clients", type=int, default=8, help="that find the capacity")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if why_not():
        sys.exit(why_not())
    given.bundle = given.bundle or newest_bundle()
    given.rate = given.rate or list(RATES)
    cases = make_cases(Detector.open(given.bundle, given.backend), SMALL_SIZES if given.small else SIZES)
    runs = []
    for setup in given.setup or SETUPS:
        runs.append(measure(given, cases, setup))
        print_run(runs[-1])
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "load_average": psutil.getloadavg(),
        "bundle": given.bundle.name,
        "backend": given.backend,
        "repeat": given.repeat,
        "max_wait_us": given.max_wait_us,
        "runs": runs,
    }
    if given.json is not None:
        atomic_write_text(given.json, json.dumps(document, indent=1) + "\n")
    loads = [load for run in runs for load in (run["one_client"], run["capacity"], *run["rates"])]
    sys.exit(1 if any(load["wrong"] or load["errors"] or not load["answered_per_second"] for load in loads) else 0)


if __name__ == "__main__":
    main()
