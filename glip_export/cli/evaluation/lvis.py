"""glip-export eval lvis: a data set in LVIS's format to fixed or normal average precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glip_export.cli.evaluation.options import (
    Batch,
    DetectionsFile,
    GpusPerWorker,
    Images,
    Limit,
    MaxApDifference,
    Output,
    Ray,
    Strict,
    Workers,
)
from glip_export.cli.evaluation.running import (
    Backends,
    DataSet,
    check_comparison,
    check_only_scored,
    finish,
    folder_of,
)
from glip_export.cli.evaluation.scoring import DETECTIONS, check_scored, checked, run_data_set, score_detections
from glip_export.cli.options import Backends as BackendsOption
from glip_export.cli.options import BundleOption, JsonOption, Threads, WeightsAgain
from glip_export.cli.outputs import check_outputs
from glip_export.errors import GlipExportError

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.config import GlipConfig
    from glip_export.evaluation import Journal
    from glip_export.evaluation.lvis.dataset import LvisDataset
    from glip_export.evaluation.lvis.evaluate import LvisResult
    from glip_export.labelling.cluster.settings import Cluster
    from glip_export.runtime.detector import Detector


def lvis(
    context: typer.Context,
    annotations: Annotated[Path, typer.Option(help="An LVIS annotation file.", metavar="JSON")],
    images: Images = None,
    bundle: BundleOption = None,
    backend: BackendsOption = None,
    detections: DetectionsFile = None,
    normal: Annotated[
        bool, typer.Option("--normal", help="The 300 best a picture, not fixed AP's 10000 best a category.")
    ] = False,
    most_a_category: Annotated[
        int, typer.Option(metavar="N", min=1, help="Of each category the N best of the whole set count; not --normal.")
    ] = 10_000,
    batch: Batch = 1,
    chunk: Annotated[int, typer.Option(min=1, help="Names a caption.")] = 40,
    limit: Limit = None,
    weights: WeightsAgain = None,
    threads: Threads = None,
    workers: Workers = 1,
    ray: Ray = None,
    gpus_per_worker: GpusPerWorker = 0,
    output: Output = None,
    strict: Strict = False,
    max_ap_difference: MaxApDifference = None,
    json: JsonOption = None,
) -> None:
    """Measure LVIS's average precision, "fixed" as GLIP's paper has it, of one backend or several.

    AP, APr, APc and APf: of all categories, the rare, the common and the frequent ones. Pictures are looked for in the
    folder as val2017/000000000139.jpg and as 000000000139.jpg. Killed and started again it goes on where it was; what
    was found is kept, so that --normal after it runs no picture again.

    Example: glip-export eval lvis --images coco --annotations lvis_v1_minival.json
    """
    source = context.get_parameter_source("most_a_category")
    if normal and source is not None and source.name != "DEFAULT":
        raise GlipExportError("--most-a-category is for fixed AP: leave it out, or --normal, which has 300 a picture")
    options = Options(normal, most_a_category, batch, chunk, limit, strict)
    if detections is not None:
        check_only_scored(context, "normal", "most_a_category")
        score_file(images, annotations, detections, options, json)
        return
    check_outputs({"--json": json}, [weights])
    backends = Backends.of(bundle, backend, threads, weights, workers, ray, gpus_per_worker)
    if not run_lvis(folder_of(images), annotations, backends, options, output, json, max_ap_difference):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Options:
    """How a data set is run and scored, alike on every backend."""

    normal: bool
    most_a_category: int
    batch: int
    chunk: int
    limit: int | None
    strict: bool


def run_lvis(
    images: Path,
    annotations: Path,
    backends: Backends,
    options: Options,
    output: Path | None,
    json: Path | None,
    max_ap_difference: float | None,
) -> bool:
    """Prints the tables, writes each backend's detections and the JSON; False if an AP is too far from the first."""
    from glip_export.bundle import Bundle
    from glip_export.evaluation.lvis.evaluate import lvis_config, lvis_notes
    from glip_export.evaluation.lvis.report import LvisReport
    from glip_export.evaluation.prompts import prompt_for, prompt_notes

    check_comparison(max_ap_difference, "--max-ap-difference", backends.words)
    bundle = Bundle.open(backends.bundle, verify=False)  # every Detector checks the hashes when it opens the bundle
    config = lvis_config(bundle.config)
    dataset = read_dataset(annotations, images, options)
    prompt_for(dataset, None, config, options.chunk)
    notes = (*dataset.notes, *prompt_notes(None, config, options.chunk), *lvis_notes(config))
    dataset = replace(dataset, notes=notes)
    data_set = lvis_data_set(dataset, bundle, config, options, backends.workers)

    def report(results: Mapping[str, LvisResult], asked: Mapping[str, Any]) -> LvisReport:
        return LvisReport(dataset, results, asked, max_ap_difference, options.normal, options.most_a_category)

    return run_data_set(backends, bundle, dataset, data_set, output, json, report)


def score_file(images: Path | None, annotations: Path, detections: Path, options: Options, json: Path | None) -> None:
    """Scores a file of detections in COCO's results format: prints the tables, writes the JSON."""
    from glip_export.evaluation.lvis.evaluate import score_found
    from glip_export.evaluation.lvis.report import LvisReport

    check_scored(json, detections, annotations)
    dataset = read_dataset(annotations, images, options)
    score = partial(score_found, normal=options.normal, most_a_category=options.most_a_category)
    dataset, result = score_detections(dataset, detections, options.strict, score)
    asked = {"detections_file": str(detections), "limit": options.limit}
    report = LvisReport(dataset, {detections.name: result}, asked, None, options.normal, options.most_a_category)
    finish(report, json, [])


def read_dataset(annotations: Path, images: Path | None, options: Options) -> LvisDataset:
    """The annotations, checked for something to measure."""
    from glip_export.evaluation.lvis.dataset import LvisDataset

    dataset = LvisDataset.read(annotations, images, options.limit)
    checked(dataset, options.strict).check_annotated()
    return dataset


def lvis_data_set(
    dataset: LvisDataset, bundle: Bundle, config: GlipConfig, options: Options, workers: int | Cluster
) -> DataSet[LvisResult]:
    """A data set in LVIS's format, for `evaluate_on`; how it is scored is no part of its identity."""
    from glip_export.evaluation.identity import identity
    from glip_export.evaluation.lvis.evaluate import evaluate_lvis

    def evaluate(detector: Callable[[], Detector], journal: Journal, progress: Callable[[int], None]) -> LvisResult:
        return evaluate_lvis(
            detector,
            dataset,
            normal=options.normal,
            most_a_category=options.most_a_category,
            batch=options.batch,
            chunk=options.chunk,
            journal=journal,
            strict=options.strict,
            workers=workers,
            progress=progress,
            config=config,
        )

    def write(path: Path, result: LvisResult) -> None:
        result.write(path, dataset)

    facts_of = identity(dataset, bundle, None, options.batch, options.chunk, limit=options.limit)
    return DataSet("", len(dataset.images), facts_of, config, DETECTIONS, evaluate, write)
