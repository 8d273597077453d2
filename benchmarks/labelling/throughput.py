"""Pictures a second of one worker and of two, of one thread each, here and on Ray: the runs take turns.

python benchmarks/labelling/throughput.py --bundle engines/demo --json throughput.json

Generated scenes (extra `train`) through the bundle; A B C A B C, so that a machine that slows down slows all of them
down. The speed is taken from a tenth of the pictures to 95 %: without opening the models and without the last blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from driver import Run, run_watched
from raylets import ray_cluster

from glip_export.bench.machine import describe_machine
from glip_export.bundle.files import atomic_write_text
from glip_export.training.scenes import scene_sets, write_scenes

PROMPT = "cat. dog. apple. car"
RUNS = ("1 worker", "2 workers", "2 workers on Ray")


def main() -> None:
    """Draws the scenes, runs, compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("engines/demo"))
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--pictures", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenes", type=Path, help="a folder of pictures to use in place of drawn ones")
    parser.add_argument("--without-ray", action="store_true")
    parser.add_argument("--json", type=Path, help="for the figures")
    given = parser.parse_args()
    runs = RUNS[:2] if given.without_ray else RUNS
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        scenes = given.scenes
        if scenes is None:
            scenes = write_scenes(scene_sets()["val"], given.pictures, Path(folder) / "scenes").parent / "images"
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
        for number in range(given.rounds):
            for name in runs:
                output = Path(folder) / f"{number}-{name.replace(' ', '-')}"
                rounds[name].append(measure(given, name, scenes, output))
                print(f"{name}: {rounds[name][-1]}", flush=True)
    figures = {**compared(rounds), "rounds": rounds, "machine": describe_machine()}
    for name in ("pictures_a_second", "ms_a_picture", "two_workers", "ray_overhead"):
        print(f"{name}: {figures[name]}")
    if given.json is not None:
        atomic_write_text(given.json, json.dumps(figures, indent=1) + "\n")


def measure(given: argparse.Namespace, name: str, scenes: Path, output: Path) -> dict[str, Any]:
    """One run."""
    workers = int(name.split(maxsplit=1)[0])
    run = Run(str(scenes), str(output), str(given.bundle.resolve()), workers, "", given.prompt, given.backend)
    if "Ray" not in name:
        return run_watched(run)[0]
    with ray_cluster(raylets=workers, cpus=1) as cluster:
        return run_watched(Run(**{**vars(run), "address": cluster.address}), cluster.raylets)[0]


def compared(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds: speeds, how much two workers bring, and what Ray takes of it, each within its round."""
    speeds = {name: [one["pictures_a_second"] for one in found] for name, found in rounds.items()}
    one, two, *on_ray = (speeds[name] for name in rounds)
    return {
        "pictures_a_second": {name: statistics.median(found) for name, found in speeds.items()},
        "ms_a_picture": {
            name: round(1e3 * int(name.split()[0]) / statistics.median(found), 2) for name, found in speeds.items()
        },
        "two_workers": round(statistics.median(b / a for a, b in zip(one, two, strict=True)), 3),
        "ray_overhead": (
            round(statistics.median(b / c - 1 for b, c in zip(two, on_ray[0], strict=True)), 4) if on_ray else None
        ),
    }


if __name__ == "__main__":
    main()
