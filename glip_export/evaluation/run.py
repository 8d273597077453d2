"""A data set taken through a Detector, batch by batch: resumable, and by several processes at once if asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.evaluation.entries import CocoImage, ImageId
from glip_export.evaluation.journal import ROWS, SUM, Log, MemoryLog, left_out_of
from glip_export.evaluation.pictures import PictureBatch, read_batches
from glip_export.evaluation.problems import Problem, refuse
from glip_export.evaluation.workers import Answer, Work, detect_in_order
from glip_export.labelling.cluster.settings import Cluster
from glip_export.runtime.detector import Detector

Workers = int | Cluster  # processes of this machine, or a cluster's

READERS = 4  # threads that read pictures for a cluster
RECORD = {"pictures", "left_out", "turned", "problems", "seconds", ROWS, SUM}  # of a batch, in the log


@dataclass(frozen=True)
class Plan:
    """In what order and batches a data set's pictures run."""

    path: Path  # the annotation file, for errors
    groups: Sequence[Sequence[CocoImage]]  # see `in_groups`
    batch: int  # pictures padded together
    work: Callable[[GlipConfig], Work]  # called only where something is left to do
    problems: Sequence[Problem] = ()  # of the annotation file

    @property
    def order(self) -> list[ImageId]:
        """All pictures' ids, as they run."""
        return [image.id for group in self.groups for image in group]


@dataclass(frozen=True)
class Ran:
    """What became of a data set's pictures; what was found on them is in the log."""

    log: Log
    read: tuple[ImageId, ...]  # pictures that could be read, as they ran
    turned: int  # of those, by EXIF
    problems: tuple[Problem, ...]
    seconds: float  # that detecting took, in this run and those it went on from


def run(
    plan: Plan,
    detector: Detector | Callable[[], Detector],
    log: Log | None = None,
    *,
    strict: bool = False,
    workers: Workers = 1,
    progress: Callable[[int], None] = lambda done: None,
    config: GlipConfig | None = None,
) -> Ran:
    """Detects on every picture that the log does not hold yet, and adds what is found to it, batch by batch.

    detector: an open one, or what opens it, not called where the log holds everything; for several workers the latter,
    picklable, and the bundle's config with it; for a cluster an `Opener`. strict: the first broken picture or
    annotation is an error. progress: told the number of pictures done, first what the log held. Batches and their order
    depend on the files alone, so that what is found does not depend on the workers. Raises GlipExportError for a log of
    other pictures and where no picture can be read; else what `Detector.detect` and `detect_in_order` raise.
    """
    log = MemoryLog() if log is None else log
    order = plan.order
    done = _tried(log.records, order)
    if strict and (known := [*plan.problems, *_problems(log.records)]):
        raise refuse(known[0], plan.path)
    progress(done)
    if done < len(order):
        if config is None:
            opened = detector = detector() if callable(detector) else detector
            config = opened.config
        batches = partial(read_batches, plan.groups, done, plan.batch, config.strictest_image)
        for batch, rows, seconds in _detect(plan.work(config), detector, batches, workers, strict):
            if strict and batch.problems:
                raise refuse(batch.problems[0], plan.path)
            log.append(_record(batch, seconds), rows)
            done += len(batch.tried)
            progress(done)
    return _ran(log, order)


def _detect(
    work: Work,
    detector: Detector | Callable[[], Detector],
    batches: Callable[..., Iterator[PictureBatch]],
    workers: Workers,
    strict: bool,
) -> Iterator[Answer]:
    if not isinstance(workers, Cluster):
        return detect_in_order(work, detector, batches(), workers, strict)
    from glip_export.evaluation.cluster import detect_on

    return detect_on(workers, work, detector, partial(batches, threads=READERS), strict)


def _record(batch: PictureBatch, seconds: float) -> dict[str, Any]:
    return {
        "pictures": batch.tried,
        "left_out": batch.left_out,
        "turned": batch.turned,
        "problems": [[problem.kind, problem.text] for problem in batch.problems],
        "seconds": seconds,
    }


def _tried(records: Sequence[dict[str, Any]], order: Sequence[ImageId]) -> int:
    """How many pictures the log holds. Raises GlipExportError where it is of others."""
    damaged = any(record.keys() != RECORD for record in records)
    tried = [] if damaged else [image_id for record in records for image_id in record["pictures"]]
    if damaged or tried != list(order[: len(tried)]):
        raise GlipExportError("the journal is damaged or of other pictures: remove it, or name another folder")
    return len(tried)


def _ran(log: Log, order: Sequence[ImageId]) -> Ran:
    problems = tuple(_problems(log.records))
    left_out = set(left_out_of(log))
    read = tuple(image_id for image_id in order if image_id not in left_out)
    if not read:
        raise GlipExportError(f"none of the {len(order)} pictures can be read; {problems[0].text}")
    turned = sum(len(record["turned"]) for record in log.records)
    return Ran(log, read, turned, problems, sum(record["seconds"] for record in log.records))


def _problems(records: Sequence[dict[str, Any]]) -> list[Problem]:
    return [Problem(kind, text) for record in records for kind, text in record["problems"]]
