"""One labelling run in a process that is watched: when it had answered how much, and in how much memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from stub_detector import StubOpening
from watched import Watch

from glip_export.labelling.items import Block, BlockAnswer
from glip_export.labelling.run import BLOCK, RAY_BLOCK, Plan, label
from glip_export.labelling.sources import open_source
from glip_export.labelling.worker import Opening
from glip_export.prompt import Prompt

STEADY = (0.1, 0.95)  # the share of the pictures between which the speed is taken: without beginning and end


@dataclass(frozen=True)
class Run:
    """What is run. address: of a Ray cluster, or "" for worker processes. prompt: "" for the stub of a detector."""

    source: str
    output: str
    bundle: str
    workers: int = 2
    address: str = ""
    prompt: str = ""
    backend: str = "onnxruntime"
    threads: int = 1
    floor: float = 0.3
    shard: int = 256
    decode: bool = False  # the stub decodes


def run_watched(run: Run, raylets: Sequence[int] = ()) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs it; its figures and the samples of its memory."""
    spec = json.dumps({**asdict(run), "started": time.time()})
    with subprocess.Popen([sys.executable, __file__, spec], stdout=subprocess.PIPE, encoding="utf-8") as process:
        watch = Watch(process.pid, raylets)
        out, _ = process.communicate()
    samples = watch.stop()
    if process.returncode:
        raise SystemExit(f"the driver ended with {process.returncode}")
    return json.loads(out.splitlines()[-1]), samples


def main() -> None:
    """The process: does the run, prints its figures."""
    spec = json.loads(sys.argv[1])
    started = spec.pop("started")
    print(json.dumps(drive(Run(**spec), started)))


def drive(run: Run, started: float) -> dict[str, Any]:
    """As `glip-export label` labels, without the data set at the end. started: time.time() of the command."""
    told: list[tuple[float, int]] = []
    plan = Plan(open_source(run.source), Path(run.output), run.shard, RAY_BLOCK if run.address else BLOCK)
    ran = label(
        plan,
        {"floor": run.floor},
        lambda blocks: _answers(run, blocks),
        progress=lambda n: told.append((time.time(), n)),
    )
    ended = time.time()
    marks = [(at, done) for at, done in told if done]
    cpu = psutil.Process().cpu_times()
    return {
        "pictures": ran.pictures,
        "errors": ran.errors,
        "seconds": round(ended - started, 2),
        "first_answer_s": round(marks[0][0] - started, 2),
        "pictures_a_second": round(_steady(marks, ran.pictures), 2),
        "driver_cpu_ms": round(1e3 * (cpu.user + cpu.system) / ran.pictures, 4),
    }


def _steady(marks: Sequence[tuple[float, int]], pictures: int) -> float:
    (first, before), (last, after) = (
        next((at, done) for at, done in marks if done >= share * pictures) for share in STEADY
    )
    return (after - before) / (last - first)


def _answers(run: Run, blocks: Any) -> Iterator[tuple[Block, BlockAnswer]]:
    opening: Any = StubOpening(run.bundle, run.decode)
    if run.prompt:
        opening = Opening(run.bundle, run.backend, Prompt.of(run.prompt), run.floor, run.threads)
    if run.address:
        from glip_export.labelling.cluster.label import label_on
        from glip_export.labelling.cluster.settings import Cluster

        return label_on(Cluster(run.address, run.workers, run.threads), blocks, opening)
    from glip_export.labelling.local import answers

    return answers(blocks(), opening, run.workers)


if __name__ == "__main__":
    main()
