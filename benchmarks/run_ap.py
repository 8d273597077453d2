"""Average precision of the torch reference and of every backend and precision, on held-out scenes.

python -m glip_export.training scenes scenes --train 0
python benchmarks/run_ap.py --scenes scenes --bundle engines/glip_demo --also engines/glip_demo-int8

Writes ap.json and ap.md. fp16 and bf16 graphs, which run on GPUs, are emulated on the CPU: every value is rounded to
its type. Stopped and started again it goes on where it was. Exits with 1 if an AP is further from torch's than 0.001
(fp32), 0.005 (bf16, fp16) or 0.010 (int8). --also adds other bundles of the same checkpoint, on all backends but torch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from glip_bench import default_output

from glip_export.bench.machine import describe_machine
from glip_export.bundle import Bundle
from glip_export.bundle.files import atomic_write_text
from glip_export.cli.console import run_app
from glip_export.cli.options import bundle_or_newest
from glip_export.cli.progress import pictures_progress, progress_bar
from glip_export.errors import GlipExportError
from glip_export.evaluation import CocoDataset, CocoResult, Journal, evaluate_coco
from glip_export.evaluation.identity import identity
from glip_export.evaluation.report import TITLES, CocoReport, number, signed
from glip_export.runtime.backends import available_backends
from glip_export.runtime.detector import Detector

REFERENCE = "torch"
EMULATED = {"fp16": "fp16 graphs, emulated", "bf16": "bf16 graphs, emulated"}
SETS = ("val", "seen_phrases", "unseen_phrases")
ALLOWED = {"fp32": 0.001, "lower": 0.005, "int8": 0.010}  # of AP
INT8 = "int8"


def main() -> None:
    """Evaluates what is missing and writes the results; ends with 1 if one is out of tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=Path, required=True, help="a folder of data sets in it, as `scenes` writes")
    parser.add_argument("--set", action="append", help=f"repeat for several; by default {', '.join(SETS)}")
    parser.add_argument("--bundle", type=Path, help="by default the newest under engines/")
    parser.add_argument("--also", type=Path, action="append", default=[], help="another bundle; repeat for several")
    parser.add_argument("--weights", help="the checkpoint, if it is no longer where it was")
    parser.add_argument("--backend", action="append", help="repeat for several; by default all that work here")
    parser.add_argument("--emulate", nargs="*", choices=EMULATED, default=list(EMULATED), help="by default both")
    parser.add_argument("--limit", type=int, help="only the first so many pictures of each set")
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--threads", type=int, help="by default all cores")
    parser.add_argument("--work", type=Path, default=Path("evaluation/run_ap"), help="results as they come")
    parser.add_argument("--output", type=Path, default=default_output(), help="by default benchmarks/results/<today>")
    given = parser.parse_args()
    bundle, *others = [Bundle.open(path) for path in (bundle_or_newest(given.bundle), *given.also)]
    names = given.set or [name for name in SETS if (given.scenes / name / "annotations.json").is_file()]
    if not names:
        raise GlipExportError(f"{given.scenes} holds none of {', '.join(SETS)}")
    reports = {name: _evaluate(given, bundle, others, name) for name in names}
    facts = _facts(given, bundle, others, reports)
    given.output.mkdir(parents=True, exist_ok=True)
    atomic_write_text(given.output / "ap.json", json.dumps(facts, indent=1) + "\n")
    atomic_write_text(given.output / "ap.md", "\n".join(_markdown(facts)) + "\n")
    print(f"Wrote {given.output / 'ap.json'} and {given.output / 'ap.md'}")
    if not all(each["within"] for found in facts["sets"].values() for each in found["backends"].values()):
        raise SystemExit(1)


def _evaluate(given: argparse.Namespace, bundle: Bundle, others: list[Bundle], name: str) -> CocoReport:
    """Every backend on one set."""
    folder = given.scenes / name
    dataset = CocoDataset.read(folder / "annotations.json", folder / "images", given.limit)
    dataset.check_annotated()
    results: dict[str, CocoResult] = {}
    with pictures_progress() as progress:
        for backend, (of, opener) in _openers(given, bundle, others).items():
            place = given.work / name / "".join(letter if letter.isalnum() else "-" for letter in backend)
            asked = {"backend": backend, **identity(dataset, of, None, given.batch, limit=given.limit)}
            tell = progress_bar(progress, f"{name}, {backend}", len(dataset.images))
            with Journal.open(place / "progress.jsonl", asked) as journal:
                results[backend] = evaluate_coco(
                    opener, dataset, batch=given.batch, journal=journal, strict=True, progress=tell
                )
    return CocoReport(dataset, results, {})


def _openers(
    given: argparse.Namespace, bundle: Bundle, others: list[Bundle]
) -> dict[str, tuple[Bundle, Callable[[], Detector]]]:
    """By its name in the table: the bundle that is evaluated, and what opens it."""
    words = given.backend or available_backends(bundle)
    ordered = [REFERENCE, *(word for word in words if word != REFERENCE)]

    def opener(one: Bundle, word: str) -> tuple[Bundle, Callable[[], Detector]]:
        return one, partial(Detector.open, one.path, word, given.threads, given.weights)

    openers = {word: opener(bundle, word) for word in ordered}
    for precision in given.emulate:
        openers[EMULATED[precision]] = bundle, partial(_open_emulated, bundle, precision, given.threads)
    for other in others:
        note = INT8 if other.precision == INT8 else other.path.resolve().name
        openers |= {f"{word}, {note}": opener(other, word) for word in ordered if word.partition(":")[0] != REFERENCE}
    return openers


def _open_emulated(bundle: Bundle, precision: str, threads: int | None) -> Detector:
    """The bundle's graphs as `glip-export trt` converts them, each value rounded to its type."""
    from glip_export.graphs.precision import converted_graphs
    from glip_export.parity.precision_check import RoundedSession

    graphs = converted_graphs(bundle, precision)
    return Detector(RoundedSession(bundle, graphs, threads), bundle.config, bundle.image_size)


def _facts(
    given: argparse.Namespace, bundle: Bundle, others: list[Bundle], reports: dict[str, CocoReport]
) -> dict[str, Any]:
    """Everything for the JSON; no folder of this machine."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**describe_machine(), "threads": given.threads},
        "bundle": _describe(bundle),
        "others": [_describe(other) for other in others],
        "batch": given.batch,
        "sets": {name: _set_facts(report) for name, report in reports.items()},
    }


def _describe(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "precision": bundle.precision,
        "graphs_mb": sum(graph.bytes for graph in bundle.graphs.values()) / 1e6,
        "weights_sha256": bundle.weights.sha256,
        "graphs_sha256": {graph.name: bundle.files[graph.file].sha256 for graph in bundle.graphs.values()},
    }


def _set_facts(report: CocoReport) -> dict[str, Any]:
    backends = report.to_dict()["backends"]
    allowed = {backend: _allowed(backend) for backend in backends if backend != REFERENCE}
    too_far = report.too_far(allowed)
    for backend, found in backends.items():
        found["allowed"] = allowed.get(backend)
        found["within"] = backend not in too_far
    return {
        "annotations_sha256": report.dataset.sha256,
        "pictures": len(report.dataset.images),
        "objects": len(report.dataset.objects),
        "categories": len(report.dataset.categories),
        "backends": backends,
    }


def _allowed(backend: str) -> float:
    if backend.endswith(f", {INT8}"):
        return ALLOWED[INT8]
    return ALLOWED["lower" if "fp16" in backend or "bf16" in backend else "fp32"]


def _markdown(facts: dict[str, Any]) -> Iterator[str]:
    machine = facts["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    yield f"# Average precision of {facts['bundle']['name']}, {facts['date'][:10]}"
    yield ""
    yield f"{machine['cpu']}, {machine['threads'] or machine['cores']} threads, batch {facts['batch']}; {packages}."
    yield f"Weights {facts['bundle']['weights_sha256'][:12]}. Emulated: every value rounded to its type, on the CPU."
    for name, found in facts["sets"].items():
        yield ""
        yield f"## {name}: {found['pictures']} pictures, {found['objects']} objects, {found['categories']} names"
        yield ""
        columns = ("backend", *TITLES.values(), f"AP - {REFERENCE}", "allowed")
        yield f"| {' | '.join(columns)} |"
        yield f"|{'---|' * len(columns)}"
        for backend, values in found["backends"].items():
            yield f"| {' | '.join(_row(backend, values))} |"


def _row(backend: str, values: dict[str, Any]) -> Iterator[str]:
    yield backend
    yield from (number(values["scores"][name]) for name in TITLES)
    if values["differences"] is None:
        yield from ("", "")
    else:
        difference = signed(values["differences"]["AP"])
        yield difference if values["within"] else f"**{difference}**"
        yield f"{values['allowed']:g}"


if __name__ == "__main__":
    run_app(main, "run_ap")
