"""glip-export eval flickr30k: sentences and their phrases to recall at 1, 5 and 10 boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glip_export.cli.evaluation.options import (
    GpusPerWorker,
    Images,
    Limit,
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
from glip_export.cli.evaluation.scoring import check_scored, checked, left_out_notes, left_out_of, run_data_set
from glip_export.cli.options import Backends as BackendsOption
from glip_export.cli.options import BundleOption, JsonOption, Threads, WeightsAgain
from glip_export.cli.outputs import check_outputs

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.config import GlipConfig
    from glip_export.evaluation import Journal
    from glip_export.evaluation.flickr30k.dataset import FlickrDataset
    from glip_export.evaluation.flickr30k.entities import Entities, Truth
    from glip_export.evaluation.flickr30k.evaluate import FlickrResult
    from glip_export.labelling.cluster.settings import Cluster
    from glip_export.runtime.detector import Detector

DETECTIONS = "detections.jsonl"


def flickr30k(
    context: typer.Context,
    annotations: Annotated[
        Path, typer.Option(help="Sentences and their phrases: final_flickr_separateGT_test.json.", metavar="JSON")
    ],
    entities: Annotated[
        Path, typer.Option(help="Flickr30k Entities: test.txt or val.txt, Annotations, Sentences.", metavar="DIR")
    ],
    images: Images = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="The boxes of a phrase as the one that encloses them, not each by itself.")
    ] = False,
    subset: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="test or val; by default as the JSON is named.", show_default=False),
    ] = None,
    bundle: BundleOption = None,
    backend: BackendsOption = None,
    detections: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Score these in place of a bundle's: JSON lines of image_id, sentence_id and boxes, of each phrase a "
            "list of x1, y1, x2, y2, score.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    limit: Limit = None,
    weights: WeightsAgain = None,
    threads: Threads = None,
    workers: Workers = 1,
    ray: Ray = None,
    gpus_per_worker: GpusPerWorker = 0,
    output: Output = None,
    strict: Strict = False,
    max_recall_difference: Annotated[
        float | None,
        typer.Option(
            min=0, help="Exit with 1 if a backend's Recall@1 is further from the first's.", show_default=False
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Measure how many phrases of Flickr30k's sentences are found, by one backend or several.

    Recall@1, @5, @10 and of all boxes, for all phrases and by type. Pictures run alone, their sentences over the same
    features. Killed and started again it goes on where it was; what was found is kept, so that --merged after it runs
    no picture again.

    Example: glip-export eval flickr30k --images flickr30k-images --annotations final_flickr_separateGT_test.json
    --entities flickr30k_entities
    """
    options = Options(entities, subset, merged, limit, strict)
    if detections is not None:
        check_only_scored(context, "entities", "merged", "subset")
        score_file(images, annotations, detections, options, json)
        return
    check_outputs({"--json": json}, [weights])
    backends = Backends.of(bundle, backend, threads, weights, workers, ray, gpus_per_worker)
    if not run_flickr(folder_of(images), annotations, backends, options, output, json, max_recall_difference):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Options:
    """How sentences are run and scored, alike on every backend."""

    entities: Path
    subset: str | None
    merged: bool
    limit: int | None
    strict: bool


def run_flickr(
    images: Path,
    annotations: Path,
    backends: Backends,
    options: Options,
    output: Path | None,
    json: Path | None,
    max_recall_difference: float | None,
) -> bool:
    """Prints the tables, writes what each backend found and the JSON; False if a recall is too far from the first."""
    from glip_export.bundle import Bundle
    from glip_export.evaluation.flickr30k.dataset import FlickrDataset
    from glip_export.evaluation.flickr30k.evaluate import flickr_config, flickr_notes
    from glip_export.evaluation.flickr30k.report import FlickrReport

    check_comparison(max_recall_difference, "--max-recall-difference", backends.words)
    bundle = Bundle.open(backends.bundle, verify=False)  # every Detector checks the hashes when it opens the bundle
    config = flickr_config(bundle.config)
    dataset = FlickrDataset.read(annotations, images, options.limit).fitting(config)
    entities = read_entities(annotations, options)
    truth, lacking = dataset.asked(entities)
    problems = (*dataset.problems, *lacking, *entities.problems)
    dataset = dataset.with_left_out(entities)
    dataset = checked(replace(dataset, problems=problems, notes=flickr_notes(config)), options.strict)
    data_set = flickr_data_set(dataset, truth, bundle, config, options, backends.workers)

    def report(results: Mapping[str, FlickrResult], asked: Mapping[str, Any]) -> FlickrReport:
        asked = {**asked, **entities_facts(entities)}
        return FlickrReport(dataset, results, asked, max_recall_difference, options.merged)

    return run_data_set(backends, bundle, dataset, data_set, output, json, report, entities.files)


def score_file(images: Path | None, annotations: Path, detections: Path, options: Options, json: Path | None) -> None:
    """Scores a file of what was found for sentences: prints the tables, writes the JSON."""
    from glip_export.cli.progress import reading
    from glip_export.evaluation.flickr30k.dataset import FlickrDataset
    from glip_export.evaluation.flickr30k.detections_file import read_grounded
    from glip_export.evaluation.flickr30k.evaluate import score_grounded
    from glip_export.evaluation.flickr30k.report import FlickrReport
    from glip_export.evaluation.problems import ProblemList

    dataset = FlickrDataset.read(annotations, images, options.limit)
    entities = read_entities(annotations, options)
    check_scored(json, detections, annotations, *entities.files)
    dataset = checked(replace(dataset, problems=(*dataset.problems, *entities.problems)), options.strict)
    problems = ProblemList()
    left_out = left_out_of(detections, dataset.picture_ids, problems, options.strict)
    truth = dataset.of_limit(entities.truth)
    with reading(detections) as progress:
        sentences = read_grounded(detections, problems, options.strict, progress)
        result = score_grounded(dataset, truth, sentences, problems, options.strict, left_out)
    notes = (*left_out_notes(dataset, result), *sentences_notes(result))
    dataset = replace(dataset, notes=(*dataset.notes, *notes))
    asked = {"detections_file": str(detections), "limit": options.limit, **entities_facts(entities)}
    finish(FlickrReport(dataset, {detections.name: result}, asked, merged=options.merged), json, [])


def read_entities(annotations: Path, options: Options) -> Entities:
    """The phrases' boxes of the subset that is meant."""
    from glip_export.evaluation.flickr30k.entities import Entities, subset_of

    subset = subset_of(options.entities, annotations, options.subset)
    return Entities.read(options.entities, subset, options.merged)


def sentences_notes(result: FlickrResult) -> tuple[str, ...]:
    """How many sentences the run left out by themselves."""
    count = result.sentences_left_out
    return (f"{count} sentence(s) are not counted: the run that found these left them out",) if count else ()


def entities_facts(entities: Entities) -> dict[str, str]:
    """What the JSON says of where the boxes are from."""
    return {"entities": str(entities.folder), "subset": entities.subset}


def flickr_data_set(
    dataset: FlickrDataset, truth: Truth, bundle: Bundle, config: GlipConfig, options: Options, workers: int | Cluster
) -> DataSet[FlickrResult]:
    """The sentences, for `evaluate_on`; how they are scored is no part of their identity."""
    from glip_export.evaluation.flickr30k.evaluate import evaluate_flickr
    from glip_export.evaluation.identity import files_identity

    def evaluate(detector: Callable[[], Detector], journal: Journal, progress: Callable[[int], None]) -> FlickrResult:
        return evaluate_flickr(
            detector,
            dataset,
            truth,
            journal=journal,
            strict=options.strict,
            workers=workers,
            progress=progress,
            config=config,
        )

    def write(path: Path, result: FlickrResult) -> None:
        result.write(path, dataset)

    facts_of = {**files_identity(bundle, dataset.sha256, dataset.images), "limit": options.limit}
    return DataSet("", len(dataset.images), facts_of, config, DETECTIONS, evaluate, write)
