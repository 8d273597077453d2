"""Times several bundles beside each other on one backend, A B A B, for one picture: what a structure costs.

python benchmarks/structures.py engines/mha_b engines/mha_s engines/vl engines/prompt_tuned --backend onnxruntime

The first bundle is what the others are compared with. Each has a process of its own; all are loaded, and only one works
at a time. Written is one JSON a backend and prompt, printed a table of each.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from glip_bench import default_output

from glip_export.bench.cli import DEFAULT_PROMPT
from glip_export.bench.client import BackendProcess
from glip_export.bench.job import Job
from glip_export.bench.measure import Measurement, count_work, measure
from glip_export.bench.report import make_report
from glip_export.bundle import Bundle
from glip_export.bundle.files import atomic_write_text
from glip_export.parity.cases import COCO
from glip_export.prompt import Prompt

PROMPTS = {"4-names": DEFAULT_PROMPT, "coco": COCO}
STAGES = ("text_encoder", "vision_backbone", "fusion_head")
KEPT = (
    "precision", "batch", "image_size", "tokens", "threads", "stages", "total", "samples_ms", "gmac_per_image",
    "peak_rss_mb", "load_peak_rss_mb", "load_s",
)  # fmt: skip


class BundleProcess(BackendProcess):
    """A worker that runs one bundle of several, whatever the job's is."""

    def __init__(self, bundle: str, backend: str) -> None:
        super().__init__(f"{backend} of {bundle}")
        self.bundle, self.backend = bundle, backend

    def load(self, job: Job, backend: str) -> dict[str, Any]:
        """See BackendProcess; `backend` is the bundle's folder, by which its measurement goes."""
        return super().load(replace(job, bundle=self.bundle), self.backend)


def main() -> None:
    """Measures each backend with each prompt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--backend", action="append", help="repeat for several; by default onnxruntime")
    parser.add_argument("--prompt", choices=PROMPTS, action="append", help="by default both")
    parser.add_argument("--threads", type=int, help="by default all cores")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each bundle")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--output", type=Path, default=default_output() / "structures")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for backend in given.backend or ["onnxruntime"]:
        for prompt in given.prompt or PROMPTS:
            target = given.output / f"{backend.replace(':', '-')}-{prompt}.json"
            if not target.exists():
                report = compare(given.bundles, backend, prompt, given.threads, given.runs, given.warmup)
                atomic_write_text(target, json.dumps(report, indent=1) + "\n")
            print(table(json.loads(target.read_text(encoding="utf-8"))), flush=True)


def compare(
    bundles: list[Path], backend: str, prompt: str, threads: int | None, runs: int, warmup: int
) -> dict[str, Any]:
    """{"backend", "prompt", "machine", "date", "load_average", "bundles": by name what glip-bench says of each}."""
    job = Job(str(bundles[0]), Prompt.of(PROMPTS[prompt]).names, (800, 1216), threads=threads)
    measured = measure(
        job, [str(path) for path in bundles], runs, warmup, False, None, lambda path: BundleProcess(path, backend)
    )
    load = os.getloadavg()
    reports = {Path(item.backend).name: _report(job, item, backend) for item in measured}
    first = next(iter(reports.values()))
    entries = {name: _kept(report, first) for name, report in reports.items()}
    return {
        "backend": backend,
        "prompt": prompt,
        "machine": first["machine"],
        "date": first["date"],
        "load_average": load,  # over 1, 5 and 15 minutes, when the runs were over
        "bundles": entries,
    }


def _report(job: Job, measurement: Measurement, backend: str) -> dict[str, Any]:
    """glip-bench's own, of one bundle."""
    job = replace(job, bundle=measurement.backend)
    measurement.backend = backend
    return make_report(job, Bundle.open(Path(job.bundle), verify=False), [measurement], count_work(job, [measurement]))


def _kept(report: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """What of it is written, and how much longer each round took than the first bundle's: median, milliseconds."""
    (run,), (reference,) = report["runs"], first["runs"]
    longer = np.subtract(run["samples_ms"], reference["samples_ms"])
    return {**{key: run[key] for key in KEPT}, "longer_ms": float(np.median(longer)), **report["bundle"]}


def table(report: dict[str, Any]) -> str:
    """Markdown: seconds of the median run."""
    lines = [
        f"{report['backend']}, {report['prompt']}",
        "| bundle | text encoder | vision backbone | fusion head | a picture | to the first's | GMAC | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, run in report["bundles"].items():
        stages = " | ".join(f"{run['stages'][stage]['p50_ms'] / 1000:.3f}" for stage in STAGES)
        lines.append(
            f"| {name} | {stages} | {run['total']['p50_ms'] / 1000:.2f} | {run['longer_ms'] / 1000:+.2f} | "
            f"{run['gmac_per_image']:.0f} | {run['peak_rss_mb']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
