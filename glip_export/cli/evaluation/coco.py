"""glip-export eval coco: a data set in COCO's format to average precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glip_export.cli.evaluation.options import (
    AspectGroups,
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
from glip_export.cli.evaluation.scoring import (
    DETECTIONS,
    check_scored,
    checked,
    run_data_set,
    score_detections,
    write_results,
)
from glip_export.cli.options import Backends as BackendsOption
from glip_export.cli.options import BundleOption, Chunk, JsonOption, Threads, WeightsAgain
from glip_export.cli.outputs import check_outputs

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.config import GlipConfig
    from glip_export.evaluation import CocoDataset, CocoResult, Journal
    from glip_export.labelling.cluster.settings import Cluster
    from glip_export.names import Name
    from glip_export.runtime.detector import Detector


def coco(
    context: typer.Context,
    annotations: Annotated[Path, typer.Option(help="A COCO annotation file of any data set.", metavar="JSON")],
    images: Images = None,
    bundle: BundleOption = None,
    backend: BackendsOption = None,
    detections: DetectionsFile = None,
    batch: Batch = 3,
    chunk: Chunk = None,
    names: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help='Asked for instead of the categories, in the file\'s order: "a. b. c", or a file with a name a line, '
            "or a .json or .yaml with a list of names and {prefix, name, suffix}.",
            show_default=False,
        ),
    ] = None,
    aspect_groups: AspectGroups = False,
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
    """Measure COCO's average precision of one backend or several on a data set.

    Killed and started again it goes on where it was. Broken pictures and annotations are left out, counted and shown.
    With --detections no bundle is run: a file in COCO's results format is scored.

    Example: glip-export eval coco --images val2017 --annotations instances_val2017.json
    """
    from glip_export.names import read_names

    asked = None if names is None else read_names(names)
    options = Options(asked, batch, chunk, aspect_groups, limit, strict)
    if detections is not None:
        check_only_scored(context)
        score_file(images, annotations, detections, options, json)
        return
    check_outputs({"--json": json}, [names, weights])
    backends = Backends.of(bundle, backend, threads, weights, workers, ray, gpus_per_worker)
    if not run_coco(folder_of(images), annotations, backends, options, output, json, max_ap_difference):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Options:
    """How a data set is run, alike on every backend."""

    names: tuple[Name, ...] | None
    batch: int
    chunk: int | None
    aspect_groups: bool
    limit: int | None
    strict: bool


def run_coco(
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
    from glip_export.evaluation.prompts import prompt_for, prompt_notes
    from glip_export.evaluation.report import CocoReport

    check_comparison(max_ap_difference, "--max-ap-difference", backends.words)
    bundle = Bundle.open(backends.bundle, verify=False)  # every Detector checks the hashes when it opens the bundle
    config = bundle.config
    dataset = read_dataset(annotations, images, options, config)
    prompt_for(dataset, options.names, config, options.chunk)
    dataset = replace(dataset, notes=(*dataset.notes, *prompt_notes(options.names, config, options.chunk)))
    data_set = coco_data_set(dataset, bundle, options, backends.workers)

    def report(results: Mapping[str, CocoResult], asked: Mapping[str, Any]) -> CocoReport:
        return CocoReport(dataset, results, asked, max_ap_difference)

    return run_data_set(backends, bundle, dataset, data_set, output, json, report)


def score_file(images: Path | None, annotations: Path, detections: Path, options: Options, json: Path | None) -> None:
    """Scores a file of detections in COCO's results format: prints the tables, writes the JSON."""
    from glip_export.evaluation.coco import score_coco
    from glip_export.evaluation.report import CocoReport

    check_scored(json, detections, annotations)
    dataset = read_dataset(annotations, images, options)
    dataset, result = score_detections(dataset, detections, options.strict, score_coco)
    asked = {"detections_file": str(detections), "limit": options.limit}
    finish(CocoReport(dataset, {detections.name: result}, asked), json, [])


def read_dataset(
    annotations: Path, images: Path | None, options: Options, config: GlipConfig | None = None
) -> CocoDataset:
    """The annotations, checked for something to measure; config: whose task may name categories of its own."""
    from glip_export.evaluation import CocoDataset

    dataset = CocoDataset.read(annotations, images, options.limit, config.task.categories if config else ())
    checked(dataset, options.strict).check_annotated()
    return dataset


def coco_data_set(
    dataset: CocoDataset, bundle: Bundle, options: Options, workers: int | Cluster
) -> DataSet[CocoResult]:
    """A data set in COCO's format, for `evaluate_on`."""
    from glip_export.evaluation import evaluate_coco
    from glip_export.evaluation.identity import identity

    def evaluate(detector: Callable[[], Detector], journal: Journal, progress: Callable[[int], None]) -> CocoResult:
        return evaluate_coco(
            detector,
            dataset,
            options.names,
            batch=options.batch,
            chunk=options.chunk,
            aspect_groups=options.aspect_groups,
            journal=journal,
            strict=options.strict,
            workers=workers,
            progress=progress,
            config=bundle.config,
        )

    asked = (options.names, options.batch, options.chunk, options.aspect_groups, options.limit)
    return DataSet(
        "", len(dataset.images), identity(dataset, bundle, *asked), bundle.config, DETECTIONS, evaluate, write_results
    )
