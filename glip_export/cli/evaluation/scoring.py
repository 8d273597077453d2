"""What the verbs share: data sets as they are read, files of detections that are scored, one data set that is run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from glip_export.cli.evaluation.running import (
    Backends,
    DataSet,
    backend_folder,
    check_written,
    evaluate_on,
    facts,
    finish,
)
from glip_export.cli.outputs import check_outputs

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.evaluation import CocoDataset, CocoResult
    from glip_export.evaluation.entries import ImageId
    from glip_export.evaluation.problems import ProblemList
    from glip_export.evaluation.report import Dataset, Report, Result
    from glip_export.evaluation.rows import Found

DETECTIONS = "detections.json"  # in COCO's results format
C = TypeVar("C", bound="CocoDataset")
D = TypeVar("D", bound="Dataset")
R = TypeVar("R", bound="Result")


def checked(dataset: D, strict: bool) -> D:
    """The data set, if there is nothing in it that --strict does not allow."""
    from glip_export.evaluation.problems import refuse

    if strict and dataset.problems:
        raise refuse(dataset.problems[0], dataset.path)
    return dataset


def score_detections(
    dataset: C, file: Path, strict: bool, score: Callable[[C, Iterable[Found], ProblemList], R]
) -> tuple[C, R]:
    """What a file in COCO's results format comes to, with a bar; score: of its blocks, see `read_detections`.

    Pictures that the run left out that wrote the file are not counted; the data set comes back with a note of them.
    """
    from glip_export.cli.progress import reading
    from glip_export.evaluation.detections_file import read_detections
    from glip_export.evaluation.problems import ProblemList

    problems = ProblemList()
    left_out = left_out_of(file, {*dataset.places.items}, problems, strict)
    scored = dataset.without(left_out)
    with reading(file) as progress:
        result = score(scored, read_detections(file, scored.places, problems, strict, progress), problems)
    return replace(dataset, notes=(*dataset.notes, *left_out_notes(dataset, result))), result


def left_out_of(file: Path, known: Collection[ImageId], problems: ProblemList, strict: bool) -> frozenset[ImageId]:
    """The pictures that the run left out that wrote the file; one that is not known is a problem."""
    from glip_export.evaluation.left_out import left_out_file, read_left_out
    from glip_export.evaluation.problems import refuse

    left_out = read_left_out(file, known, problems)
    if strict and (told := problems.listed()):
        raise refuse(told[0], left_out_file(file))
    return left_out


def left_out_notes(dataset: Dataset, result: Result) -> tuple[str, ...]:
    """How many of the data set's pictures were left out."""
    from glip_export.evaluation.left_out import left_out_note

    count = len(dataset.images) - result.pictures
    return (left_out_note(count),) if count else ()


def check_scored(json: Path | None, detections: Path, *read: Path) -> None:
    """Raises GlipExportError where the JSON would fall on a file that scoring reads."""
    from glip_export.evaluation.left_out import left_out_file

    check_outputs({"--json": json}, [*read, detections, left_out_file(detections)])


def run_data_set(
    backends: Backends,
    bundle: Bundle,
    dataset: Dataset,
    data_set: DataSet[R],
    output: Path | None,
    json: Path | None,
    report: Callable[[Mapping[str, R], Mapping[str, Any]], Report[Any, R]],
    read: Iterable[Path] = (),
) -> bool:
    """A verb's only data set through each backend: prints the tables, writes each one's detections and the JSON.

    report: of the results by backend and what the JSON says of the question. read: files beside the data set's that
    were read and are not written. False if a backend is too far from the first.
    """
    folder = output or Path("evaluation") / f"{backends.bundle.resolve().name}-{dataset.path.stem}"
    inputs = [dataset.path, *read, *(image.path for image in dataset.images)]
    check_written(backends, {folder: data_set.kept}, json, inputs)
    backends.check(data_set.config, [folder])
    results = {word: evaluate_on(backends, word, data_set, folder) for word in backends.words}
    written = [folder / backend_folder(word) / data_set.kept for word in backends.words]
    return finish(report(results, facts(backends, bundle, data_set.identity)), json, written)


def write_results(path: Path, result: CocoResult) -> None:
    """The detections, in COCO's results format."""
    from glip_export.evaluation.detections_file import detections_writer

    with detections_writer(path, result.image_ids, result.category_ids) as add:
        for block in result.blocks:
            add(block)
