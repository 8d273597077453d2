"""glip-export eval: a data set through one backend or several, resumable, to average precision."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress
from rich.text import Text

from glip_export.cli.console import console
from glip_export.cli.options import Backends, BundleOption, JsonOption, Threads, WeightsAgain, bundle_or_newest
from glip_export.cli.outputs import bundle_files, check_outputs
from glip_export.cli.progress import pictures_progress, progress_bar
from glip_export.errors import GlipExportError

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.evaluation import CocoDataset, CocoResult
    from glip_export.evaluation.report import CocoReport
    from glip_export.runtime.detector import Detector

JOURNAL, DETECTIONS = "progress.jsonl", "detections.json"


def coco(
    images: Annotated[Path, typer.Option(help="The folder of the pictures.", metavar="DIR")],
    annotations: Annotated[Path, typer.Option(help="A COCO annotation file of any data set.", metavar="JSON")],
    bundle: BundleOption = None,
    backend: Backends = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures padded together, in order of their ids.")] = 3,
    chunk: Annotated[
        int | None, typer.Option(min=1, help="Names a caption; by default as many as fit.", show_default=False)
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help='What to ask for instead of the categories, by rising id: "a. b. c", or a file with a name a line.',
            show_default=False,
        ),
    ] = None,
    aspect_groups: Annotated[
        bool, typer.Option("--aspect-groups", help="Batch wide pictures apart, as the original does above batch 1.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many pictures.", show_default=False)
    ] = None,
    weights: WeightsAgain = None,
    threads: Threads = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the detections; by default evaluation/<bundle>-<JSON>.", show_default=False),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first broken picture or annotation: exit code 2.")
    ] = False,
    max_ap_difference: Annotated[
        float | None,
        typer.Option(min=0, help="Exit with 1 if a backend's AP is further from the first's.", show_default=False),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Measure COCO's average precision of one backend or several on a data set.

    Killed and started again it goes on where it was. Broken pictures and annotations are left out, counted and shown.

    Example: glip-export eval coco --images val2017 --annotations instances_val2017.json
    """

    from glip_export.names import read_names

    asked = None if names is None else read_names(names)
    where = bundle_or_newest(bundle)
    check_outputs({"--json": json}, [names, weights])
    options = Options(asked, batch, chunk, aspect_groups, limit, strict, threads, weights)
    backends = tuple(dict.fromkeys(backend or ("onnxruntime",)))
    if not run_coco(images, annotations, where, backends, options, output, json, max_ap_difference):
        raise typer.Exit(1)


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
    from glip_export.bundle import Bundle
    from glip_export.bundle.files import atomic_write_text
    from glip_export.evaluation import CocoDataset
    from glip_export.evaluation.problems import refuse
    from glip_export.evaluation.prompts import prompt_for, prompt_notes
    from glip_export.evaluation.report import CocoReport, shown

    if max_ap_difference is not None and len(backends) < 2:
        raise GlipExportError("--max-ap-difference compares backends: give --backend twice or more")
    opened = Bundle.open(bundle, verify=False)  # every Detector checks the hashes when it opens the bundle
    config = opened.config
    dataset = CocoDataset.read(annotations, images, options.limit, config.task.categories)
    if options.strict and dataset.problems:
        raise refuse(dataset.problems[0], dataset.path)
    dataset.check_annotated()
    prompt_for(dataset, options.names, config, options.chunk)
    dataset = replace(dataset, notes=(*dataset.notes, *prompt_notes(options.names, config, options.chunk)))
    folder = output or Path("evaluation") / f"{bundle.resolve().name}-{annotations.stem}"
    places = {
        f"--output's {name} of {word}": folder / backend_folder(word) / name
        for word in backends
        for name in (DETECTIONS, JOURNAL)
    }
    check_outputs(
        {"--json": json, **places}, [annotations, *bundle_files(bundle), *(image.path for image in dataset.images)]
    )
    identities = {backend: _identity(backend, dataset, opened, options) for backend in backends}
    kept = _check_backends(bundle, backends, options, folder)
    results = {}
    with pictures_progress() as progress:
        for backend in backends:
            opener = partial(_open, bundle, backend, options, kept)
            target = folder / backend_folder(backend)
            results[backend] = _evaluate(progress, target, identities[backend], opener, dataset, options)
    asked = {
        **{"bundle": str(bundle), "model": config.name, "weights_sha256": opened.weights.sha256},
        **{key: value for key, value in identities[backends[0]].items() if key != "backend"},
    }
    report = CocoReport(dataset, results, asked, max_ap_difference)
    if json is not None:
        atomic_write_text(json, json_module.dumps(report.to_dict(), indent=1) + "\n")
    for table in report.tables():
        console.print(table)
    for note in report.notes:
        console.print(shown(note), soft_wrap=True)
    written = [str(folder / backend_folder(backend) / DETECTIONS) for backend in backends]
    written += [] if json is None else [str(json)]
    console.print(f"Wrote {', '.join(written)}", soft_wrap=True)
    return _verdict(report)


def backend_folder(backend: str) -> str:
    """The name of a backend's folder: a colon cannot stand in one on Windows."""
    return backend.replace(":", "-")


def _identity(backend: str, dataset: CocoDataset, bundle: Bundle, options: Options) -> dict[str, Any]:
    from glip_export.evaluation.identity import identity

    asked = (options.names, options.batch, options.chunk, options.aspect_groups, options.limit)
    return identity(backend, dataset, bundle, *asked)


def _check_backends(bundle: Path, backends: Sequence[str], options: Options, folder: Path) -> dict[str, Detector]:
    """Opens each backend that has not begun, lest one fail hours later; keeps the first, if it is among them."""
    kept: dict[str, Detector] = {}
    for backend in backends:
        if not (folder / backend_folder(backend) / JOURNAL).exists():
            detector = _open(bundle, backend, options, {})
            if backend == backends[0]:
                kept[backend] = detector
    return kept


def _open(bundle: Path, backend: str, options: Options, kept: dict[str, Detector]) -> Detector:
    from glip_export.runtime.detector import Detector

    return kept.pop(backend, None) or Detector.open(bundle, backend, options.threads, options.weights)


def _evaluate(
    progress: Progress,
    folder: Path,
    asked: Mapping[str, Any],
    opener: Callable[[], Detector],
    dataset: CocoDataset,
    options: Options,
) -> CocoResult:
    """One backend with a bar of its own; its journal and, once it is through, its detections go to `folder`."""
    from glip_export.bundle.files import atomic_write_text
    from glip_export.evaluation import Journal, evaluate_coco

    tell = progress_bar(progress, asked["backend"], len(dataset.images))
    with Journal.open(folder / JOURNAL, asked) as journal:
        if journal.note:
            (folder / DETECTIONS).unlink(missing_ok=True)
            words = (
                f"{folder} was of another evaluation ({journal.note}): started over, {JOURNAL}.old is what was there"
            )
            progress.console.print(words, soft_wrap=True)
        result = evaluate_coco(
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
    atomic_write_text(folder / DETECTIONS, json_module.dumps(result.detections) + "\n")
    return result


def _verdict(report: CocoReport) -> bool:
    from glip_export.evaluation.report import signed

    if report.max_ap_difference is None:
        return True
    if report.incomparable:
        console.print(f"FAILED: the APs cannot be compared: {report.incomparable}", soft_wrap=True)
        return False
    word = Text("PASSED", "green") if report.passed else Text("FAILED", "red")
    others = [backend for backend in report.results if backend != report.first]
    found = ", ".join(f"{backend} {signed(report.differences(backend)['AP'])}" for backend in others)
    limit = f"{report.max_ap_difference:g} allowed"
    console.print(word, f": AP against {report.first}'s: {found} ({limit})", sep="", soft_wrap=True)
    return report.passed
