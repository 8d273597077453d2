"""What labelling costs beside detecting: a stub answers a list of 100 000 paths, links to a few pictures.

python benchmarks/labelling/machinery.py --bundle engines/demo --json machinery.json

Says the seconds from the command to the first answer, pictures a second after it, seconds of processor time a picture
of driver and workers, and their memory over time, here (worker processes) and on a Ray cluster of two raylets. The
bundle is read by Ray's workers only, and only to see that it is there. Exits with 1 if a picture has not one answer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from driver import Run, run_watched
from raylets import ray_cluster
from watched import growth

from glip_export.bench.machine import describe_machine
from glip_export.bundle.files import atomic_write_text
from glip_export.labelling.shards import read_shards

PICTURES = Path(__file__).parents[2] / "glip_export" / "data" / "pictures"
SHARD = 256
WARM = 1.5  # seconds after the first answer in which what shards are written with is loaded


def main() -> int:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="engines/demo", help="any")
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-size", type=int, default=SHARD)
    parser.add_argument("--decode", action="store_true", help="workers decode the pictures too")
    parser.add_argument("--on", action="append", choices=("local", "ray"), help="by default both")
    parser.add_argument("--json", type=Path, help="for the figures")
    given = parser.parse_args()
    figures: dict[str, Any] = {"pictures": given.pictures, "workers": given.workers, "shard": given.shard_size}
    with tempfile.TemporaryDirectory(prefix="machinery-") as folder:
        listed = make_list(Path(folder), given.pictures)
        for place in given.on or ("local", "ray"):
            figures[place] = measure(given, place, listed, Path(folder) / place)
            print(line(place, figures[place]), flush=True)
    figures["machine"] = describe_machine()
    if given.json is not None:
        atomic_write_text(given.json, json.dumps(figures, indent=1) + "\n")
    return 0 if all(figures[place]["each_once"] for place in given.on or ("local", "ray")) else 1


def make_list(folder: Path, count: int) -> Path:
    """A text file of so many paths: links to the packaged pictures."""
    links = folder / "links"
    links.mkdir()
    targets = sorted(PICTURES.glob("*.jpg"))
    for number in range(count):
        (links / f"{number:08d}.jpg").symlink_to(targets[number % len(targets)])
    listed = folder / "list.txt"
    listed.write_text("".join(f"links/{number:08d}.jpg\n" for number in range(count)), encoding="utf-8")
    return listed


def measure(given: argparse.Namespace, place: str, listed: Path, output: Path) -> dict[str, Any]:
    """One run, in a process of its own that is watched."""
    if place == "local":
        return _measured(given, listed, output, "", ())
    with ray_cluster(raylets=2, cpus=max(1, given.workers // 2)) as cluster:
        return _measured(given, listed, output, cluster.address, cluster.raylets)


def _measured(
    given: argparse.Namespace, listed: Path, output: Path, address: str, raylets: tuple[int, ...]
) -> dict[str, Any]:
    bundle = str(Path(given.bundle).resolve())
    run = Run(str(listed), str(output), bundle, given.workers, address, shard=given.shard_size, decode=given.decode)
    found, samples = run_watched(run, raylets)
    times = Counter(row.source for row in read_shards(output))
    found["each_once"] = len(times) == given.pictures and set(times.values()) == {1}
    found["worker_cpu_ms"] = round(1e3 * _workers_seconds(samples) / given.pictures, 4)
    since = found["first_answer_s"] + WARM
    found["memory"] = {role: growth(samples, role, since) for role in samples[-1] if role != "s"}
    found["samples"] = samples[:: max(1, len(samples) // 60)]
    return found


def _workers_seconds(samples: list[dict[str, Any]]) -> float:
    return max((sample["workers"]["cpu_s"] for sample in samples), default=0.0)


def line(place: str, found: dict[str, Any]) -> str:
    """What a person reads."""
    words = (
        f"{place}: first answer after {found['first_answer_s']} s, then {found['pictures_a_second']} pictures/s; "
        f"processor ms a picture: driver {found['driver_cpu_ms']}, workers {found['worker_cpu_ms']}; "
        f"each picture once: {found['each_once']}, errors {found['errors']}"
    )
    for role, memory in found["memory"].items():
        if not memory:
            continue  # it was over before that
        words += (
            f"\n  {role} ({memory['processes']}): MB of its own {memory['first_uss_mb']} in the first third, "
            f"{memory['last_uss_mb']} in the last ({memory['growth_uss']:+.1%}), peak {memory['peak_uss_mb']}; "
            f"resident {memory['first_rss_mb']} to {memory['last_rss_mb']}"
        )
    return words


if __name__ == "__main__":
    raise SystemExit(main())
