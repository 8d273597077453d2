"""What a picture costs on this machine, for plan.py: decode, inference, machinery, a shard's rows, a restart.

python benchmarks/labelling/machinery.py --json machinery.json
python benchmarks/labelling/costs.py --machinery machinery.json --bundle engines/demo --json costs.json

Decoding is that of the packaged photos (640x427 JPEG) on one thread. With --inference-seconds the time of a model that
was measured elsewhere (glip-bench) stands in place of the bundle's, and --inference-from says where it comes from.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from glip_export.bench.machine import describe_machine
from glip_export.bundle.files import atomic_write_text
from glip_export.image import load_image
from glip_export.labelling.items import Answer, Block, Item, Where
from glip_export.labelling.run import Plan
from glip_export.labelling.shards import read_footer, shard_file, write_shard
from glip_export.labelling.sources import open_source
from glip_export.labelling.worker import Opening
from glip_export.prompt import Prompt

PICTURES = Path(__file__).parents[2] / "glip_export" / "data" / "pictures"
PROMPT = "cat. remote control. person. car"
ROUNDS = 12
LISTED = 64 * 1024  # pictures of the run that is started again
SHARD = 256
BOXES = 8  # a picture


def main() -> None:
    """Measures, and adds what machinery.py did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machinery", type=Path, required=True, help="JSON of machinery.py")
    parser.add_argument("--bundle", type=Path, default=Path("engines/demo"))
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inference-seconds", type=float, help="in place of the bundle's")
    parser.add_argument("--inference-from", default="", help="where that was measured")
    parser.add_argument("--json", type=Path, help="for the costs")
    given = parser.parse_args()
    machinery = json.loads(given.machinery.read_text(encoding="utf-8"))
    run = machinery.get("ray") or machinery["local"]
    opening, inference = inference_costs(given)
    costs = {
        "inference_seconds": given.inference_seconds or inference,
        "decode_seconds": decode_seconds(),
        "overhead_seconds": run["worker_cpu_ms"] / 1e3,
        "driver_seconds": 1 / run["pictures_a_second"],
        "open_seconds": opening,
        "picture_bytes": float(np.mean([path.stat().st_size for path in PICTURES.glob("*.jpg")])),
        **shard_costs(),
    }
    about = {
        "inference": given.inference_from or f"{given.bundle.name}, {given.backend}, {given.threads} thread(s)",
        "driver": f"a stub's pictures/s {'on Ray' if 'ray' in machinery else 'here'}, workers on the same machine",
        "bundle_here": {"seconds": inference, "bundle": given.bundle.name, "backend": given.backend},
    }
    figures = {"costs": costs, "about": about, "machine": describe_machine()}
    text = json.dumps(figures, indent=1) + "\n"
    print(text, end="")
    if given.json is not None:
        atomic_write_text(given.json, text)


def decode_seconds() -> float:
    """Of one picture, upright RGB: the median over the rounds."""
    paths = sorted(PICTURES.glob("*.jpg"))
    return float(
        np.median([_seconds(lambda: [load_image(path) for path in paths]) / len(paths) for _ in range(ROUNDS)])
    )


def inference_costs(given: argparse.Namespace) -> tuple[float, float]:
    """Seconds until the first answer, and of one picture after it, decoding included as a worker does it."""
    items = [Item(path.name, Where(str(path))) for path in sorted(PICTURES.glob("*.jpg"))]
    block = Block(0, tuple(items), len(items))
    started = time.perf_counter()
    opening = Opening(str(given.bundle), given.backend, Prompt.of(PROMPT), 0.3, given.threads)
    labeller = opening()
    labeller(Block(0, tuple(items[:1]), len(items)))
    opened = time.perf_counter() - started
    labeller(block)
    seconds = [_seconds(lambda: labeller(block)) / len(items) for _ in range(ROUNDS)]
    return opened, float(np.median(seconds)) - decode_seconds()


def shard_costs() -> dict[str, float]:
    """Bytes a row, and of a restart the seconds a picture that is enumerated and a shard that is looked at."""
    with tempfile.TemporaryDirectory(prefix="costs-") as name:
        folder = Path(name)
        (folder / "list.txt").write_text(
            "".join(f"pictures/{number:012d}.jpg\n" for number in range(LISTED)), encoding="utf-8"
        )
        source = open_source(str(folder / "list.txt"))
        items = list(source.items())
        rng = np.random.default_rng(0)
        output = folder / "run"
        paths = [shard_file(output, number) for number in range(LISTED // SHARD)]
        for number, path in enumerate(paths):
            part = items[number * SHARD : (number + 1) * SHARD]
            write_shard(path, part, [_answer(rng) for _ in part])
        plan = Plan(source, output, SHARD)
        blocks = _median(lambda: _nothing_left(plan))
        footers = _median(lambda: [read_footer(path) for path in paths])
        size = sum(path.stat().st_size for path in paths)
    return {
        "row_bytes": size / LISTED,
        "footer_seconds": footers / len(paths),
        "enumerate_seconds": (blocks - footers) / LISTED,
    }


def _nothing_left(plan: Plan) -> None:
    (end,) = plan.started().blocks()
    assert end.first == LISTED and not end.items


def _answer(rng: np.random.Generator) -> Answer:
    corners = np.sort(rng.uniform(0, 640, (BOXES, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
    scores = np.sort(rng.uniform(0.3, 1, BOXES).astype(np.float32))[::-1]
    return Answer(427, 640, rng.integers(0, 80, BOXES).astype(np.int32), scores, corners)


def _median(work: Callable[[], object]) -> float:
    return float(np.median([_seconds(work) for _ in range(5)]))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
