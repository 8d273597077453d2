"""glip-export eval odinw: the tasks of ODinW, one or all 13 or 35, to average precision and its average."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glip_export.cli.evaluation.options import (
    Batch,
    DetectionsFile,
    GpusPerWorker,
    Limit,
    MaxApDifference,
    Ray,
    Strict,
    Workers,
)
from glip_export.cli.evaluation.running import (
    Backends,
    DataSet,
    backend_folder,
    check_comparison,
    check_only_scored,
    check_written,
    evaluate_on,
    facts,
    present,
    verdict_of_all,
)
from glip_export.cli.evaluation.scoring import DETECTIONS, check_scored, checked, score_detections, write_results
from glip_export.cli.options import Backends as BackendsOption
from glip_export.cli.options import BundleOption, Chunk, JsonOption, Threads, WeightsAgain
from glip_export.cli.outputs import check_outputs
from glip_export.errors import GlipExportError

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.config import GlipConfig
    from glip_export.evaluation import CocoResult, Journal
    from glip_export.evaluation.odinw import OdinwDataset, OdinwTask
    from glip_export.evaluation.odinw.report import OdinwReport
    from glip_export.labelling.cluster.settings import Cluster
    from glip_export.runtime.detector import Detector


def odinw(
    context: typer.Context,
    config: Annotated[
        list[Path],
        typer.Option(help="A task's YAML, or a folder of them; repeat for several.", metavar="YAML"),
    ],
    images: Annotated[
        Path,
        typer.Option(help="The folder that the YAMLs' paths start from: the one that holds odinw/.", metavar="DIR"),
    ],
    bundle: BundleOption = None,
    backend: BackendsOption = None,
    detections: DetectionsFile = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="One of the YAML's data sets in place of its DATASETS.TEST: test.", show_default=False
        ),
    ] = None,
    no_override_category: Annotated[
        bool, typer.Option("--no-override-category", help="The annotation files' categories, not OVERRIDE_CATEGORY's.")
    ] = False,
    no_caption_prompt: Annotated[
        bool, typer.Option("--no-caption-prompt", help="Ask by the categories' names, not CAPTION_PROMPT's words.")
    ] = False,
    batch: Batch = 1,
    chunk: Chunk = None,
    limit: Limit = None,
    weights: WeightsAgain = None,
    threads: Threads = None,
    workers: Workers = 1,
    ray: Ray = None,
    gpus_per_worker: GpusPerWorker = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the detections, a folder a data set; by default evaluation/<bundle>-odinw.",
            show_default=False,
        ),
    ] = None,
    strict: Strict = False,
    max_ap_difference: MaxApDifference = None,
    json: JsonOption = None,
) -> None:
    """Measure COCO's average precision on ODinW's data sets, and its average, of one backend or several.

    Each task's YAML says where its data set is, what its categories are and by which words they are asked for. Killed
    and started again it goes on where it was.

    Example: glip-export eval odinw --config configs/odinw_13 --images DATASET
    """
    options = Options(split, not no_override_category, not no_caption_prompt, batch, chunk, limit, strict)
    if detections is not None:
        check_only_scored(context, "config", "split", "no_override_category")
        score_file(images, config, detections, options, json)
        return
    check_outputs({"--json": json}, [weights])
    backends = Backends.of(bundle, backend, threads, weights, workers, ray, gpus_per_worker)
    if not run_odinw(images, config, backends, options, output, json, max_ap_difference):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Options:
    """How the data sets are chosen and run, alike on every backend."""

    split: str | None
    override: bool
    prompts: bool
    batch: int
    chunk: int | None
    limit: int | None
    strict: bool


@dataclass(frozen=True)
class Job:
    """A task's data set and how it is evaluated."""

    dataset: OdinwDataset
    data_set: DataSet[CocoResult]


def run_odinw(
    root: Path,
    configs: Sequence[Path],
    backends: Backends,
    options: Options,
    output: Path | None,
    json: Path | None,
    max_ap_difference: float | None,
) -> bool:
    """Prints the tables, writes each data set's detections and the JSON; False if an AP is too far from the first."""
    from glip_export.bundle import Bundle
    from glip_export.evaluation.odinw import OdinwResult

    check_comparison(max_ap_difference, "--max-ap-difference", backends.words)
    bundle = Bundle.open(backends.bundle, verify=False)  # every Detector checks the hashes when it opens the bundle
    tasks = tasks_of(configs, root, bundle.config, options)
    jobs = {task.name: odinw_job(task, bundle, options, backends.workers) for task in tasks}
    folder = output or Path("evaluation") / f"{backends.bundle.resolve().name}-odinw"
    read = [path for task in tasks for path in (task.file.path, task.annotations)]
    read += [image.path for job in jobs.values() for image in job.dataset.images]
    check_written(backends, {folder / name: DETECTIONS for name in jobs}, json, read)
    backends.check(bundle.config, [folder / name for name in jobs])
    results: dict[str, dict[str, CocoResult]] = {name: {} for name in jobs}
    failed: dict[str, str] = {}
    for word in backends.words:  # all data sets with one open backend
        for name, job in jobs.items():
            if name in failed:
                continue
            try:
                # Without its detections, which are written: many data sets' would fill the memory.
                results[name][word] = OdinwResult.of(evaluate_on(backends, word, job.data_set, folder / name))
            except GlipExportError as error:
                if options.strict or len(jobs) == 1:
                    raise
                failed[name] = f"{word}: {error}"
    whole = {name: job for name, job in jobs.items() if name not in failed}
    told = "; ".join(f"{name}: {why}" for name, why in failed.items())
    if not whole:
        raise GlipExportError(f"not one of {len(jobs)} data sets could be evaluated: {told}")
    asked = {"split": options.split, "batch": options.batch, "chunk": options.chunk, "limit": options.limit}
    report = report_of(whole, results, facts(backends, bundle, asked), max_ap_difference, failed)
    present(report, json, [folder / "<data set>" / backend_folder(word) / DETECTIONS for word in backends.words])
    passed = verdict_of_all(report)
    if failed:
        raise GlipExportError(f"{len(failed)} of {len(jobs)} data sets could not be evaluated: {told}")
    return passed


def tasks_of(configs: Sequence[Path], root: Path, config: GlipConfig, options: Options) -> tuple[OdinwTask, ...]:
    """The tasks as the options have them."""
    from glip_export.evaluation.odinw import read_tasks

    return read_tasks(configs, root, config, options.split, override=options.override, prompts=options.prompts)


def odinw_job(task: OdinwTask, bundle: Bundle, options: Options, workers: int | Cluster) -> Job:
    """A task's data set, for `evaluate_on`; what the task asks for is part of its identity."""
    from glip_export.evaluation.identity import identity
    from glip_export.evaluation.odinw import evaluate_odinw
    from glip_export.evaluation.odinw.evaluate import asked_config

    dataset = dataset_of(task, options)
    config = asked_config(task, dataset, options.chunk)

    def evaluate(detector: Callable[[], Detector], journal: Journal, progress: Callable[[int], None]) -> CocoResult:
        return evaluate_odinw(
            detector,
            task,
            dataset,
            batch=options.batch,
            chunk=options.chunk,
            journal=journal,
            strict=options.strict,
            workers=workers,
            progress=progress,
        )

    asked = (None, options.batch, options.chunk, task.groups_by_aspect, options.limit)
    facts_of = {**identity(dataset, bundle, *asked), **_task_facts(config), "split": task.split}
    data_set = DataSet(task.name, len(dataset.images), facts_of, config, DETECTIONS, evaluate, write_results)
    return Job(dataset, data_set)


def _task_facts(config: GlipConfig) -> dict[str, Any]:
    """What a task may change of a bundle's configuration."""
    task, image = asdict(config.task), asdict(config.image)
    return {"task": task, "image": image, "separator": config.text.separator, "task_chunk": config.detection.chunk}


def dataset_of(task: OdinwTask, options: Options) -> OdinwDataset:
    """The task's data set, its annotations checked."""
    from glip_export.evaluation.odinw import read_dataset

    return checked(read_dataset(task, options.limit, options.chunk), options.strict)


def score_file(root: Path, configs: Sequence[Path], detections: Path, options: Options, json: Path | None) -> None:
    """Scores a file of detections of one task's data set: prints the tables, writes the JSON."""
    from glip_export.config import GlipConfig
    from glip_export.evaluation.coco import score_coco
    from glip_export.evaluation.odinw.report import OdinwReport
    from glip_export.evaluation.report import CocoReport

    tasks = tasks_of(configs, root, GlipConfig(), replace(options, prompts=False))  # nothing is asked for
    if len(tasks) > 1:
        names = ", ".join(task.name for task in tasks)
        raise GlipExportError(f"--detections is of one data set, but --config has {len(tasks)}: {names}")
    (task,) = tasks
    check_scored(json, detections, task.file.path, task.annotations)
    dataset = dataset_of(task, options)
    dataset, result = score_detections(dataset, detections, options.strict, score_coco)
    report = CocoReport(dataset, {detections.name: result}, {"split": task.split})
    asked = {"detections_file": str(detections), "limit": options.limit}
    present(OdinwReport({task.name: report}, asked), json, [])


def report_of(
    jobs: Mapping[str, Job],
    results: Mapping[str, Mapping[str, CocoResult]],
    asked: Mapping[str, Any],
    max_ap_difference: float | None,
    failed: Mapping[str, str],
) -> OdinwReport:
    """The results by data set and backend, side by side."""
    from glip_export.evaluation.odinw.report import OdinwReport
    from glip_export.evaluation.report import CocoReport

    reports = {
        name: CocoReport(job.dataset, results[name], job.data_set.identity, max_ap_difference)
        for name, job in jobs.items()
    }
    return OdinwReport(reports, asked, max_ap_difference, failed)
