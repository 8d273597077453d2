"""Malformed requests, slow ones and clients that hang up, against a real `glip-export serve`.

python benchmarks/serving/faults.py --bundle engines/demo --requests 2000 --json faults.json

Each must be answered by its 4xx with nothing of the server's inside, and between them good requests rightly. Exits with
1 if one is not, or if the server dies or keeps memory.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from expected import Case, Differences, make_cases
from malformed import OPTIONS, Kind, kinds
from raw_http import detect, hang_up, send
from server_process import ServerProcess, running_server

from glip_export import Detector
from glip_export.bundle import newest_bundle
from glip_export.bundle.files import atomic_write_text

UPLOAD_SECONDS = 3.0
SLOW_SHARE = 0.05  # of the requests are of the slow kinds, which take as long as the server waits
HANG_UPS = 0.1  # so many clients that hang up, beside the requests
AT_ONCE = 24
PARTS = 4
INSIDES = (b"Traceback", b'File "', b".py", b"site-packages", b"Error(")  # what no answer may show


class Faults:
    """Sends malformed requests to one server and keeps what is wrong with the answers."""

    def __init__(self, server: ServerProcess, cases: list[Case], seed: int) -> None:
        self._address = (server.host, server.port)
        self._cases = cases
        self._random = random.Random(seed)
        every = kinds(UPLOAD_SECONDS * 2)
        self._quick = itertools.cycle([kind for kind in every if not kind.pause])
        self._slow = itertools.cycle([kind for kind in every if kind.pause])
        self.problems: list[str] = []
        self.statuses: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.hung_up = 0
        self.good = Differences()

    async def run(self, requests: int) -> None:
        """So many malformed requests, and good ones and hang-ups between them."""
        slow = round(requests * SLOW_SHARE)
        chosen = [*itertools.islice(self._quick, requests - slow), *itertools.islice(self._slow, slow)]
        self._random.shuffle(chosen)
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, kind: Kind) -> None:
            async with limit:
                await self._malformed(kind)
                if self._random.random() < HANG_UPS:
                    await self._hang_up()
                if number % 100 == 0:
                    await self._good()

        await asyncio.gather(*(one(number, kind) for number, kind in enumerate(chosen)))
        await self._good()

    async def _malformed(self, kind: Kind) -> None:
        self.sent[kind.name] += 1
        try:
            reply = await send(self._address, kind.make(self._random), 600, kind.pause)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.problems.append(f"{kind.name}: no answer ({type(error).__name__} {error})")
            return
        self.statuses[str(reply.status)] += 1
        error = (reply.json() or {}).get("error")
        if reply.status not in kind.statuses:
            self.problems.append(f"{kind.name}: {reply.status} {reply.body[:200]!r}, not {kind.statuses}")
        elif not isinstance(error, dict) or set(error) != {"code", "message"} or "\n" in error["message"]:
            self.problems.append(f"{kind.name}: the answer is no error of one line: {reply.body[:200]!r}")
        elif any(inside in reply.body for inside in INSIDES):
            self.problems.append(f"{kind.name}: the answer shows the server's insides: {reply.body[:300]!r}")

    async def _hang_up(self) -> None:
        case = self._random.choice(self._cases)
        data = detect(case.fresh_picture(), case.prompt)
        cut = self._random.choice((len(data), self._random.randint(1, len(data))))
        try:
            await hang_up(self._address, data[:cut], self._random.choice((0.0, 0.05)))
            self.hung_up += 1
        except OSError as error:
            self.problems.append(f"hanging up: {error}")

    async def _good(self) -> None:
        case = self._random.choice(self._cases)
        for _ in range(20):
            reply = await send(self._address, detect(case.fresh_picture(), case.prompt), 600)
            if reply.status != 429:
                break
            await asyncio.sleep(float(reply.headers["retry-after"]))
        if reply.status != 200:
            self.problems.append(f"a good request: {reply.status} {reply.body[:200]!r}")
        elif not self.good.add(case, reply.json()["results"][0]):
            self.problems.append(f"a good request was answered wrongly: {self.good.first_wrong}")


def measure(bundle: Path, backend: str, threads: int | None, requests: int, seed: int = 0) -> dict[str, Any]:
    """Runs all of it on a server of its own; the report's `problems` is empty if it held."""
    cases = make_cases(Detector.open(bundle, backend, threads), ((160, 128),), ("cat", "cat. remote control"))
    options = ["--backend", backend, "--upload-seconds", str(UPLOAD_SECONDS), "--deadline-ms", "600000", *OPTIONS]
    options += ["--image-cache", "16", *(() if threads is None else ("--threads", str(threads)))]
    with running_server(bundle, options) as server:
        process = psutil.Process(server.process.pid)
        warm = Faults(server, cases, seed + 1)
        asyncio.run(warm.run(max(requests // 4, 60)))
        connections = len(process.net_connections())
        memory = [process.memory_info().rss / 1e6]
        faults, started = Faults(server, cases, seed), time.perf_counter()
        for part in range(PARTS):
            asyncio.run(faults.run(requests * (part + 1) // PARTS - requests * part // PARTS))
            memory.append(process.memory_info().rss / 1e6)
        seconds = time.perf_counter() - started
        problems = warm.problems + faults.problems
        until = time.monotonic() + 60  # connections that were refused are closed by then
        while (left := len(process.net_connections())) > connections + 4 and time.monotonic() < until:
            time.sleep(0.5)
        if left > connections + 4:
            problems.append(f"{left} connections are open afterwards, {connections} were before")
        code = server.stop()
        if code:
            problems.append(f"the server ended with {code}")
        if "Traceback" in server.read_log():
            problems.append(f"the server's log has a traceback: {server.read_log()[:3000]}")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": bundle.name,
        "backend": backend,
        "requests": sum(faults.sent.values()),
        "seconds": round(seconds, 1),
        "kinds": dict(faults.sent),
        "statuses": dict(faults.statuses),
        "hung_up": faults.hung_up,
        "good_requests": faults.good.compared,
        "good_requests_wrong": faults.good.wrong,
        "memory_mb": [round(mb, 1) for mb in memory],  # before, and after each of PARTS parts
        "problems": problems,
    }


def main(words: Sequence[str] | None = None) -> None:
    """Runs it, says what came of it, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="by default the newest under engines/")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(words)
    report = measure(given.bundle or newest_bundle(), given.backend, given.threads, given.requests, given.seed)
    if given.json is not None:
        atomic_write_text(given.json, json.dumps(report, indent=1) + "\n")
    print({key: value for key, value in report.items() if key not in ("kinds", "problems")})
    for problem in report["problems"][:50]:
        print(f"FAILED: {problem}", file=sys.stderr)
    sys.exit(1 if report["problems"] else 0)


if __name__ == "__main__":
    main()
