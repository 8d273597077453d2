"""Backends x bundles (fp32, int8) x (4 names, COCO's 80) x batch (1, 3) at 800x1216: dated JSON, plots, one table.

python benchmarks/run_cpu.py --bundle engines/glip_tiny --bundle engines/glip_tiny-int8 --weights glip_tiny.pth

On 2 idle cores with the torch reference: an estimated 8 minutes for batch 1 (--batch 1 --runs 3), 35 for all. Batch 1
comes first. Stopped and started again it goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glip_bench import default_output, measure, repeated, where

from glip_export.bundle.files import atomic_write_text

BACKENDS = ("torch", "onnxruntime", "openvino", "openvino:bf16")
PROMPTS = {"4-names": ["--prompt", "person. traffic light. cat. remote control"], "coco": ["--coco-prompt"]}
BATCHES = (1, 3)
SIZE = "800x1216"


def main() -> None:
    """Measures what is missing and writes summary.md over all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", help="repeat for others, such as the int8 one; by "
                        "default the newest under engines/")  # fmt: skip
    parser.add_argument("--prompt", choices=PROMPTS, action="append", help="by default both")
    parser.add_argument("--batch", type=int, action="append", help=f"repeat for several; by default {BATCHES}")
    parser.add_argument("--weights", help="the checkpoint, if it is no longer where it was")
    parser.add_argument("--backend", action="append", help=f"repeat for several; by default {', '.join(BACKENDS)}")
    parser.add_argument("--threads", type=int, help="by default all cores")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each configuration")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--image-size", default=SIZE)
    parser.add_argument("--output", type=Path, default=default_output(), help="by default benchmarks/results/<today>")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    common = [
        *repeated("--bundle", list(map(str, given.bundle or []))),
        *where(None, given.weights, given.threads),
        *repeated("--backend", given.backend or BACKENDS),
        *("--image-size", given.image_size, "--runs", str(given.runs), "--warmup", str(given.warmup)),
    ]
    reports = {}
    for batch in given.batch or BATCHES:
        for name in given.prompt or PROMPTS:
            target = given.output / f"cpu-{name}-batch{batch}.json"
            words = [*common, *PROMPTS[name], "--batch", str(batch), "--plot", str(target.with_suffix(".png"))]
            reports[f"{name}, batch {batch}"] = measure(target, words)
    summary = given.output / "summary.md"
    atomic_write_text(summary, "\n".join(_summary(reports)) + "\n")
    print(f"Wrote {summary}")


def _summary(reports: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The medians as a Markdown table."""
    first = next(iter(reports.values()))
    machine = first["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    peaks = ", ".join(
        f"{name} {value:.0f}" if value else f"{name} not measured" for name, value in machine["peak_gflops"].items()
    )
    yield f"# {first['bundle']['name']}, {first['runs'][0]['image_size']}, {first['date'][:10]}"
    yield ""
    yield f"{machine['cpu']}, {machine['threads']} threads; matrix-multiply peak in GFLOP/s: {peaks}; {packages}."
    sizes = ", ".join(f"{one['folder']} {one['graphs_mb']:.0f}" for one in first["bundles"])
    yield f"Medians of {first['runs'][0]['rounds']} runs in ms; the batch as a whole. Graphs in MB: {sizes}."
    yield "Shares of peak: of the whole, then of each graph's own multiply-adds in its own time."
    yield ""
    columns = (
        "prompt", "backend", "precision", "T", "text", "vision", "fusion", "total", "images/s", "x torch", "GMAC/image",
        "of peak", "text, vision, fusion of peak", "peak MB", "box px", "detections",
    )  # fmt: skip
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for name, report in reports.items():
        for run in report["runs"]:
            yield f"| {' | '.join(_row(name, run))} |"


def _row(name: str, run: dict[str, Any]) -> Iterator[str]:
    graphs = ("text_encoder", "vision_backbone", "fusion_head")
    yield from (name, run["backend"], run["precision"], str(run["tokens"]))
    yield from (f"{run['stages'][graph]['p50_ms']:.0f}" for graph in graphs)
    yield f"**{run['total']['p50_ms']:.0f}**"
    for field, form in (
        ("images_per_second", ".3g"), ("speedup_vs_torch_plain", ".2f"), ("gmac_per_image", ".3g"),
        ("share_of_peak", ".0%"), ("stages", ""), ("peak_rss_mb", ".0f"), ("max_box_diff_px", ".2g"),
    ):  # fmt: skip
        if field == "stages":
            shares = [stage["share_of_peak"] for stage in run["stages"].values() if "share_of_peak" in stage]
            yield ", ".join("" if share is None else f"{share:.0%}" for share in shares).strip(", ")
        else:
            yield "" if run[field] is None else format(run[field], form)
    agreement = run["agreement"]
    if agreement is not None and not agreement.get("compared_anything", True):
        yield "nothing to compare"
    else:
        yield "the reference" if agreement is None else "equal" if agreement["within_tolerance"] else "OUT OF TOLERANCE"


if __name__ == "__main__":
    main()
