"""Memory of a labelling run over time: its driver's, and its workers', whether they are its children or Ray's."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable
from typing import Any

import psutil

EVERY = 0.5  # seconds
MB = 1e6
WORKER = "MapWorker"  # in the names of Ray Data's actors that have a Detector


class Watch:
    """Samples in a thread until `stop`.

    driver: its process. raylets: whose children are the workers and Ray's own processes, which are told apart by
    the names that Ray gives them; without raylets the workers are the driver's children.
    """

    def __init__(self, driver: int, raylets: Iterable[int] = ()) -> None:
        self._driver = psutil.Process(driver)
        self._raylets = [psutil.Process(raylet) for raylet in raylets]
        self.samples: list[dict[str, Any]] = []
        self._stopped = threading.Event()
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> list[dict[str, Any]]:
        """The samples: seconds since the start; of each role MB resident, MB its own, processor time, processes."""
        self._stopped.set()
        self._thread.join()
        return self.samples

    def _run(self) -> None:
        while not self._stopped.wait(EVERY):
            sample: dict[str, Any] = {"s": round(time.perf_counter() - self._started, 2)}
            for role, processes in {"driver": [self._driver], **self._others()}.items():
                sizes = [size for process in processes if (size := _size(process)) is not None]
                sample[role] = {
                    "rss_mb": round(sum(rss for rss, _, _ in sizes) / MB, 1),
                    "uss_mb": round(sum(uss for _, uss, _ in sizes) / MB, 1),
                    "cpu_s": round(sum(cpu for _, _, cpu in sizes), 2),
                    "processes": len(sizes),
                }
            if sample["driver"]["processes"]:
                self.samples.append(sample)

    def _others(self) -> dict[str, list[psutil.Process]]:
        """The workers' processes; Ray's: those of its own and the one that reads the source."""
        found: dict[str, list[psutil.Process]] = {"workers": [], **({"ray": []} if self._raylets else {})}
        try:
            if not self._raylets:
                found["workers"] = [each for each in self._driver.children(recursive=True) if not _is_tracker(each)]
            for raylet in self._raylets:
                for child in [raylet, *raylet.children(recursive=True)]:
                    name = _name(child)
                    found["workers" if name.startswith("ray::") and WORKER in name else "ray"].append(child)
        except psutil.NoSuchProcess:
            pass
        return found


def growth(samples: list[dict[str, Any]], role: str, since: float) -> dict[str, float]:
    """Of a role, MB: the median of the first third of the time in which it is at work and of the last, and the peak.

    At work: from `since` on (seconds), with as many processes as it has most of the time.
    """
    samples = [sample for sample in samples if sample["s"] >= since]
    if not samples:
        return {}
    usual = statistics.mode(sample[role]["processes"] for sample in samples)
    at_work = [sample[role] for sample in samples if sample[role]["processes"] == usual]
    third = max(1, len(at_work) // 3)
    found: dict[str, float] = {"processes": usual, "samples": len(at_work)}
    for kind in ("rss_mb", "uss_mb"):
        first = statistics.median(one[kind] for one in at_work[:third])
        last = statistics.median(one[kind] for one in at_work[-third:])
        found |= {
            f"first_{kind}": first,
            f"last_{kind}": last,
            f"peak_{kind}": max(one[kind] for one in at_work),
            f"growth_{kind.removesuffix('_mb')}": round(last / first - 1, 4) if first else 0.0,
        }
    return found


def _size(process: psutil.Process) -> tuple[int, int, float] | None:
    try:
        found, cpu = process.memory_full_info(), process.cpu_times()
        return found.rss, found.uss, cpu.user + cpu.system
    except psutil.Error:  # it ended
        return None


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


def _is_tracker(process: psutil.Process) -> bool:
    """multiprocessing's own helper."""
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return True
