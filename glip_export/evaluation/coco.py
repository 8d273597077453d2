"""COCO evaluation: a Detector over a data set, resumable, and the average precision of what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from glip_export.config import GlipConfig
from glip_export.errors import BackendError, GlipExportError
from glip_export.evaluation.average_precision import Scores, load_pycocotools, score
from glip_export.evaluation.dataset import CocoDataset
from glip_export.evaluation.entries import CocoImage
from glip_export.evaluation.journal import Journal
from glip_export.evaluation.pictures import PictureBatch, in_groups, read_batches
from glip_export.evaluation.problems import Problem, refuse
from glip_export.evaluation.prompts import prompt_for
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.runtime.detector import Detector

BATCH = 3  # pictures padded together
RECORD = {"pictures", "left_out", "turned", "problems", "seconds", "results"}  # of a batch, in the journal


@dataclass(frozen=True)
class CocoResult:
    """What a detector found on a data set, and how good it is."""

    scores: Scores  # on the pictures that could be read
    detections: list[dict[str, Any]]  # COCO's results form: image_id, category_id, bbox xywh with the +1, score
    pictures: int  # that could be read
    turned: int  # of those, by EXIF
    problems: tuple[Problem, ...]  # of the pictures; the annotation file's are the data set's
    seconds: float  # that detecting took, in this run and those it went on from


def evaluate_coco(
    detector: Detector | Callable[[], Detector],
    dataset: CocoDataset,
    names: Sequence[str] | None = None,
    *,
    batch: int = BATCH,
    chunk: int | None = None,
    aspect_groups: bool = False,
    journal: Journal | None = None,
    strict: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    config: GlipConfig | None = None,
) -> CocoResult:
    """Detects on every picture and scores what was found.

    detector: an open one, or what opens it, not called where the journal holds everything. names: to ask for, as many
    as categories and in their order; by default their own. batch: pictures padded together, in order of their ids.
    chunk, aspect_groups: see `Detector.detect` and `in_groups`. journal: results are added to it batch by batch, and
    what it holds is not computed again. strict: the first broken picture or annotation is an error. progress: told the
    number of pictures done, first what the journal held. config: the bundle's, so that what is asked for is checked
    before a detector is opened.

    What is asked for is what the bundle's configuration says (`prompt_for`), the categories' names by default.
    A picture that cannot be read is left out, with its objects, before batches are made. As in the original, pictures
    are taken as stored, whatever EXIF says (but see `load_as_annotated`), and boxes are scaled to the picture's
    annotated size where its file has another. Raises GlipExportError if there are not as many
    names as categories, if no picture can be read, and without pycocotools; else what `detect` raises.
    """
    load_pycocotools()  # told before hours of detecting, not after
    if config is None and not callable(detector):
        config = detector.config
    if config is not None:
        prompt_for(dataset, names, config, chunk)
    records = [] if journal is None else journal.records
    groups = in_groups(dataset.images, aspect_groups)
    order = [image.id for group in groups for image in group]
    damaged = any(record.keys() != RECORD for record in records)
    tried = [] if damaged else [image_id for record in records for image_id in record["pictures"]]
    if damaged or tried != order[: len(tried)]:
        raise GlipExportError("the journal is damaged or of other pictures: remove it, or name another folder")
    if strict and (known := [*dataset.problems, *_problems(records)]):
        raise refuse(known[0], dataset.path)
    done = len(tried)
    progress(done)
    if done < len(order):
        opened = detector() if callable(detector) else detector
        prompt = prompt_for(dataset, names, opened.config, chunk)
        for current in read_batches(groups, done, batch, opened.config.image):
            if strict and current.problems:
                raise refuse(current.problems[0], dataset.path)
            record = _detect(opened, current, prompt, chunk, dataset)
            if journal is None:
                records.append(record)
            else:
                journal.append(record)
            done += len(current.tried)
            progress(done)
    return _result(dataset, records)


def _detect(
    detector: Detector, batch: PictureBatch, prompt: Prompt, chunk: int | None, dataset: CocoDataset
) -> dict[str, Any]:
    """A batch's record: what JSON can hold, floats exactly."""
    started = time.perf_counter()
    found = detector.detect(batch.pictures, prompt, chunk=chunk) if batch.pictures else []
    seconds = time.perf_counter() - started
    results: list[dict[str, Any]] = []
    for image, detections in zip(batch.images, found, strict=True):
        if not np.isfinite(detections.boxes).all() or not np.isfinite(detections.scores).all():
            raise BackendError(f"{detector.session.name} gave NaN or infinite values on picture {image.id}")
        # By label, not by id: a task's categories need not be in the order of their ids.
        for result in _as_annotated(detections, image).to_coco(image.id, range(len(dataset.categories))):
            results.append({**result, "category_id": dataset.category_ids[result["category_id"]]})
    return {
        "pictures": batch.tried,
        "left_out": batch.left_out,
        "turned": batch.turned,
        "problems": [[problem.kind, problem.text] for problem in batch.problems],
        "seconds": seconds,
        "results": results,
    }


def _as_annotated(detections: Detections, image: CocoImage) -> Detections:
    """With boxes in pixels of the size that the annotations are in."""
    if image.size is None or image.size == detections.image_size:
        return detections
    y, x = (given / real for given, real in zip(image.size, detections.image_size, strict=True))
    return replace(detections, boxes=detections.boxes * np.array([x, y, x, y], np.float32), image_size=image.size)


def _result(dataset: CocoDataset, records: Sequence[dict[str, Any]]) -> CocoResult:
    problems = tuple(_problems(records))
    read = [
        image_id for record in records for image_id in record["pictures"] if image_id not in set(record["left_out"])
    ]
    if not read:
        raise GlipExportError(f"none of the {len(dataset.images)} pictures can be read; {problems[0].text}")
    detections = [result for record in records for result in record["results"]]
    seconds = sum(record["seconds"] for record in records)
    turned = sum(len(record["turned"]) for record in records)
    return CocoResult(score(dataset, detections, read), detections, len(read), turned, problems, seconds)


def _problems(records: Sequence[dict[str, Any]]) -> list[Problem]:
    return [Problem(kind, text) for record in records for kind, text in record["problems"]]
