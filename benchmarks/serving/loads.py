"""Loads on one server, open and closed, and what came of their requests."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import psutil
from expected import Case, Differences
from raw_http import Reply, detect, send
from server_process import ServerProcess


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
                    reply = await self._ask(outcome)
                    if reply is None or reply.status != 200:
                        await asyncio.sleep(1)

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

    async def _ask(self, outcome: Outcome) -> Reply | None:
        case = self._random.choice(self._cases)
        picture = case.picture if self._repeat else case.fresh_picture()
        started = time.perf_counter()
        reply: Reply | None
        try:
            reply = await send(self._address, detect(picture, case.prompt), self._timeout)
        except (OSError, asyncio.IncompleteReadError):
            reply = None
        outcome.add(case, reply, time.perf_counter() - started)
        return reply

    async def _watch(self, outcome: Outcome, started: float) -> None:
        while True:
            outcome.memory.append((time.perf_counter() - started, self._process.memory_info().rss / 1e6))
            await asyncio.sleep(0.25)
