"""A Ray cluster of two raylets labels generated scenes: as one process does, with a machine killed, the driver killed.

python benchmarks/labelling/cluster.py --bundle engines/demo --json cluster.json

Four runs of `glip-export label` over the same scenes: worker processes here; the cluster; the cluster, of which one
raylet and all its processes get SIGKILL after a third of the shards; the cluster, whose driver gets SIGKILL then and is
started again. Exits with 1 unless in each of them every picture has one answer, equal to the first run's to the byte.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raylets import kill_node, ray_cluster

from glip_export.bench.machine import describe_machine
from glip_export.bundle.files import atomic_write_text
from glip_export.labelling.shards import read_shards, shard_files
from glip_export.training.scenes import scene_sets, write_scenes

PROMPT = "cat. dog. apple. car"
SHARD = 64
THIRD = 3


def main() -> int:
    """Draws the scenes, labels them four times, compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("engines/demo"))
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--scenes", type=Path, help="a folder of pictures to use in place of drawn ones")
    parser.add_argument("--json", type=Path, help="for the report")
    given = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        scenes = given.scenes or drawn(given.pictures, Path(folder) / "scenes")
        wanted: list[tuple[Any, ...]] = []
        for name, run in RUNS.items():
            output = Path(folder) / name.replace(" ", "-")
            started = time.perf_counter()
            report[name] = run(command(given, scenes, output), output)
            rows = answers(output)
            wanted = wanted or rows
            report[name] |= {
                "seconds": round(time.perf_counter() - started, 1),
                "pictures": len(rows),
                "once": len({row[0] for row in rows}) == len(rows),
                "errors": sum(bool(row[-1]) for row in rows),
                "boxes": sum(row[3] for row in rows),
                "equal": rows == wanted,
            }
            print(f"{name}: {report[name]}", flush=True)
    report["machine"] = describe_machine()
    if given.json is not None:
        atomic_write_text(given.json, json.dumps(report, indent=1) + "\n")
    return 0 if all(report[name]["once"] and report[name]["equal"] for name in RUNS) else 1


def drawn(count: int, folder: Path) -> Path:
    """Scenes of the validation set."""
    return write_scenes(scene_sets()["val"], count, folder, workers=2).parent / "images"


def command(given: argparse.Namespace, scenes: Path, output: Path) -> list[str]:
    """`glip-export label`, without what says where it runs."""
    words = [sys.executable, "-m", "glip_export.cli", "label", str(scenes), "--prompt", PROMPT, "--format", "jsonl"]
    words += ["--bundle", str(given.bundle), "--backend", given.backend, "--output", str(output)]
    return [*words, "--threads", "1", "--shard-size", str(SHARD), "--threshold", "0.3"]


def answers(output: Path) -> list[tuple[Any, ...]]:
    """All rows by source, as bytes."""
    return sorted(
        (
            row.source,
            row.answer.height,
            row.answer.width,
            len(row.answer.labels),
            row.answer.labels.tobytes(),
            row.answer.scores.tobytes(),
            row.answer.boxes.tobytes(),
            row.answer.error,
        )
        for row in read_shards(output)
    )


def here(words: list[str], output: Path) -> dict[str, Any]:
    """Two worker processes of this machine."""
    _end_well(_start([*words, "--workers", "2"]))
    return {}


def on_cluster(words: list[str], output: Path) -> dict[str, Any]:
    """A worker on each of two raylets."""
    with ray_cluster() as cluster:
        _end_well(_start([*words, "--ray", cluster.address]))
    return {}


def node_killed(words: list[str], output: Path) -> dict[str, Any]:
    """One of two raylets is killed on the way."""
    with ray_cluster() as cluster:
        process = _start([*words, "--ray", cluster.address])
        at = _at_a_third(process, words, output)
        kill_node(cluster.raylets[1])
        _end_well(process)
    return {"killed_at_shard": at}


def driver_killed(words: list[str], output: Path) -> dict[str, Any]:
    """The driver is killed on the way, and the same command started again on the same cluster."""
    with ray_cluster() as cluster:
        process = _start([*words, "--ray", cluster.address])
        at = _at_a_third(process, words, output)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = {path: path.stat().st_mtime_ns for path in shard_files(output)}
        _end_well(_start([*words, "--ray", cluster.address]))
    untouched = sum(path.stat().st_mtime_ns == modified for path, modified in kept.items())
    return {"killed_at_shard": at, "shards_then": len(kept), "of_those_untouched": untouched}


RUNS: dict[str, Callable[[list[str], Path], dict[str, Any]]] = {
    "here": here,
    "cluster": on_cluster,
    "a machine killed": node_killed,
    "the driver killed": driver_killed,
}


def _start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")


def _end_well(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"label ended with {process.returncode}:\n{errors[-3000:]}")


def _at_a_third(process: subprocess.Popen[str], words: list[str], output: Path) -> int:
    """Waits until a third of the shards is there; how many are."""
    pictures = sum(1 for _ in Path(words[words.index("label") + 1]).iterdir())
    while (there := len(shard_files(output))) < pictures // SHARD // THIRD:
        if process.poll() is not None:
            raise SystemExit(f"label ended before it could be disturbed: {process.communicate()[1][-3000:]}")
        time.sleep(0.05)
    return there


if __name__ == "__main__":
    raise SystemExit(main())
