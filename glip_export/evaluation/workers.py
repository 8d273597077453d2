"""Batches through one Detector here, or through one in each of several processes, answered in their order."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from glip_export.errors import BackendError, GlipExportError, GlipExportWarning
from glip_export.evaluation.pictures import PictureBatch
from glip_export.evaluation.rows import Rows, joined
from glip_export.processes import end_with_parent, no_interrupt, share_cores
from glip_export.runtime.detector import Detector

Answer = tuple[PictureBatch, Rows, float]  # without the pictures' pixels; seconds

_worker: dict[str, Any] = {}  # of a worker process: its work, what opens its detector, and that once it is open


class Work(Protocol):
    """What is asked of pictures. Workers are sent it: it can be pickled, and is small."""

    def detect(self, detector: Detector, batch: PictureBatch) -> Rows:
        """What is found on the batch's pictures, in their order."""
        ...


def detect_in_order(
    work: Work,
    detector: Detector | Callable[[], Detector],
    batches: Iterator[PictureBatch],
    workers: int,
    strict: bool = False,
) -> Iterator[Answer]:
    """Each batch, what was found on it, and the seconds that took, in the order of the batches.

    strict: a batch with problems is not run, for it ends all. Raises what the work raises; with several workers
    BackendError where one of them was killed, GlipExportError for an open detector, which no other process can use.
    """
    if workers == 1:
        opened = detector() if callable(detector) else detector
        for batch in batches:
            yield detect(work, opened, batch, strict)
        return
    if not callable(detector):
        raise GlipExportError("several workers need a function that opens a detector, not an open one")
    yield from _in_processes(work, detector, batches, workers, strict)


def _in_processes(
    work: Work, detector: Callable[[], Detector], batches: Iterator[PictureBatch], workers: int, strict: bool
) -> Iterator[Answer]:
    waiting: deque[Future[tuple[Answer, list[str]]]] = deque()
    told: set[str] = set()

    def oldest() -> Answer:
        answer, words = waiting.popleft().result()
        for hint in dict.fromkeys(word for word in words if word not in told):
            told.add(hint)
            warnings.warn(hint, GlipExportWarning, stacklevel=4)
        return answer

    # spawn: a process that was forked has none of the threads that runtimes started before.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _open_worker, (work, detector, os.getpid())
    )
    try:
        for batch in batches:
            if strict and batch.problems:
                while waiting:
                    yield oldest()
                yield batch, joined([]), 0.0
            with no_interrupt():  # which a process that is started here inherits
                waiting.append(pool.submit(_answer, batch))
            if len(waiting) > workers:  # one more than run: no worker waits for its pictures
                yield oldest()
        while waiting:
            yield oldest()
    except BrokenProcessPool as error:
        raise BackendError(
            "a worker process ended: killed, perhaps for memory (each holds the model), or by a fault of the backend; "
            "take fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _open_worker(work: Work, detector: Callable[[], Detector], parent: int) -> None:
    """Before a worker's first batch, which opens the detector: of an error here the pool would not tell the words."""
    end_with_parent(parent)
    share_cores()
    _worker.update(work=work, opener=detector)


def _answer(batch: PictureBatch) -> tuple[Answer, list[str]]:
    """In a worker: the answer, and the warnings on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GlipExportWarning)
        if "detector" not in _worker:
            _worker["detector"] = _worker["opener"]()
        answer = detect(_worker["work"], _worker["detector"], batch)
    return answer, [str(each.message) for each in caught if issubclass(each.category, GlipExportWarning)]


def detect(work: Work, detector: Detector, batch: PictureBatch, strict: bool = False) -> Answer:
    """A batch's answer. strict: one with problems is not run."""
    started = time.perf_counter()
    rows = joined([]) if (strict and batch.problems) or not batch.pictures else work.detect(detector, batch)
    return batch.without_pixels(), rows, time.perf_counter() - started
