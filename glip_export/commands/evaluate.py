"""glip-export eval: a data set through one backend or several, resumable, to average precision."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from glip_export import __version__
from glip_export.bundle import Bundle
from glip_export.commands.console import console
from glip_export.errors import GlipExportError
from glip_export.evaluation import CocoDataset, CocoResult, Journal, evaluate_coco
from glip_export.evaluation.coco import prompt_for
from glip_export.evaluation.report import CocoReport, signed
from glip_export.files import MANIFEST, atomic_write_text, sha256_file
from glip_export.prompt import Prompt
from glip_export.runtime.detector import Detector

JOURNAL, DETECTIONS = "progress.jsonl", "detections.json"


@dataclass(frozen=True)
class Options:
    """How a data set is run, alike on every backend."""

    names: tuple[str, ...] | None
    batch: int
    chunk: int | None
    aspect_groups: bool
    limit: int | None
    strict: bool
    threads: int | None
    weights: str | None


def run_coco(
    images: Path,
    annotations: Path,
    bundle: Path,
    backends: Sequence[str],
    options: Options,
    output: Path | None,
    json: Path | None,
    max_ap_difference: float | None,
) -> bool:
    """Prints the tables, writes each backend's detections and the JSON; False if an AP is too far from the first."""
    if max_ap_difference is not None and len(backends) < 2:
        raise GlipExportError("--max-ap-difference compares backends: give --backend twice or more")
    dataset = CocoDataset.read(annotations, images, options.limit)
    prompt_for(dataset, options.names)
    opened = Bundle.open(bundle, verify=False)  # every Detector checks the hashes when it opens the bundle
    folder = output or Path("evaluation") / f"{bundle.resolve().name}-{annotations.stem}"
    identity = _identity(dataset, opened, options)
    openers = _openers(bundle, backends, options)
    results = {}
    with _progress() as progress:
        for backend in backends:
            target = folder / backend_folder(backend)
            with Journal.open(target / JOURNAL, {"backend": backend, **identity}) as journal:
                if journal.note:
                    old = f"{target / JOURNAL}.old"
                    progress.console.print(
                        f"{target} was of another evaluation ({journal.note}): started over, the old one is in {old}",
                        soft_wrap=True,
                        markup=False,
                    )
                results[backend] = _evaluate(progress, backend, openers[backend], dataset, options, journal)
            atomic_write_text(target / DETECTIONS, json_module.dumps(results[backend].detections) + "\n")
    asked = {"bundle": str(bundle), "model": opened.config.name, "weights_sha256": opened.weights.sha256, **identity}
    report = CocoReport(dataset, results, asked, max_ap_difference)
    for table in report.tables():
        console.print(table)
    written = [str(folder / backend_folder(backend) / DETECTIONS) for backend in backends]
    if json is not None:
        atomic_write_text(json, json_module.dumps(report.to_dict(), indent=1) + "\n")
        written.append(str(json))
    console.print(f"Wrote {', '.join(written)}", soft_wrap=True, markup=False)
    return _verdict(report)


def backend_folder(backend: str) -> str:
    """The name of a backend's folder: a colon cannot stand in one on Windows."""
    return backend.replace(":", "-")


def read_names(words: str | None) -> tuple[str, ...] | None:
    """--names: a file with a name a line, or names with stops between."""
    if words is None:
        return None
    path = Path(words)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long for a file's name, or with a NUL
        is_file = False
    if not is_file:
        return Prompt.of(words).names
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GlipExportError(f"cannot read --names {path}: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _identity(dataset: CocoDataset, bundle: Bundle, options: Options) -> dict[str, Any]:
    """What tells this evaluation from all others: only an equal one is gone on with."""
    return {
        "glip-export": __version__,
        "manifest_sha256": sha256_file(bundle.path / MANIFEST),
        "annotations_sha256": dataset.sha256,
        "pictures_sha256": dataset.pictures_digest(),
        "names": list(dataset.names if options.names is None else options.names),
        "batch": options.batch,
        "chunk": options.chunk,
        "aspect_groups": options.aspect_groups,
        "limit": options.limit,
    }


def _openers(bundle: Path, backends: Sequence[str], options: Options) -> Mapping[str, Callable[[], Detector]]:
    """What opens each backend; the first one used opens those after it once too, lest they fail hours later."""
    checked = False

    def open_backend(backend: str) -> Detector:
        nonlocal checked
        for later in () if checked else backends[backends.index(backend) + 1 :]:
            Detector.open(bundle, later, options.threads, options.weights)
        checked = True
        return Detector.open(bundle, backend, options.threads, options.weights)

    return {backend: lambda backend=backend: open_backend(backend) for backend in backends}  # type: ignore[misc]


def _evaluate(
    progress: Progress,
    backend: str,
    opener: Callable[[], Detector],
    dataset: CocoDataset,
    options: Options,
    journal: Journal,
) -> CocoResult:
    task = progress.add_task(backend, total=len(dataset.images))
    known = False

    def tell(done: int) -> None:
        nonlocal known
        if known:
            progress.update(task, completed=done)
        else:  # what the journal held is no measure of speed
            progress.reset(task, completed=done)
        known = True

    return evaluate_coco(
        opener,
        dataset,
        options.names,
        batch=options.batch,
        chunk=options.chunk,
        aspect_groups=options.aspect_groups,
        journal=journal,
        strict=options.strict,
        progress=tell,
    )


def _verdict(report: CocoReport) -> bool:
    if report.max_ap_difference is None:
        return True
    word = "[green]PASSED[/]" if report.passed else "[red]FAILED[/]"
    others = [backend for backend in report.results if backend != report.first]
    found = ", ".join(f"{backend} {signed(report.differences(backend)['AP'])}" for backend in others)
    limit = f"{report.max_ap_difference:g} allowed"
    console.print(f"{word}: AP against {report.first}'s: {found} ({limit})", soft_wrap=True)
    return report.passed


class _Speed(ProgressColumn):
    """Pictures per second of this run."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f} pictures/s")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
        console=console,
    )
