"""The queue between many clients and one Detector: bounded, with deadlines, emptied in shared runs by one thread."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from glip_export.errors import BackendError, GlipExportError
from glip_export.prompt import Prompt
from glip_export.runtime.encoded import EncodedImages
from glip_export.runtime.request_batch import BatchDetector
from glip_export.runtime.requests import Answer, DroppedError, PreparedImage, Request
from glip_export.serving.answers import BUSY, ServiceError
from glip_export.serving.metrics import Metrics
from glip_export.serving.settings import Settings

log = logging.getLogger("glip_export.serving")

# What is accepted is expected to be answered within this share of its deadline: the estimate is an average, and a
# machine may become slower while a request waits.
DEADLINE_SHARE = 0.5
# Weights of the newest run in the estimate: a machine that has become slower must be believed sooner.
WHEN_FASTER, WHEN_SLOWER = 0.25, 0.5
WARM_UP_SHAPE = (480, 640, 3)


class CrowdedOutError(GlipExportError):
    """It was accepted, but the model has become slower since, and it would be late."""


class FailedError(GlipExportError):
    """The run failed for a reason that is not the request's."""


@dataclass(eq=False)
class Work:
    """One picture and its prompt in the queue; `answer` is set from the worker's thread."""

    image: PreparedImage | EncodedImages
    prompt: Prompt
    threshold: float
    deadline: float  # time.monotonic()
    units: int  # with the run of the backbone
    answer: asyncio.Future[Answer]
    queued: float = field(default_factory=time.monotonic)
    started: float | None = None
    cancelled: bool = False

    def is_wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        return not self.cancelled and time.monotonic() < self.deadline

    @property
    def queue_seconds(self) -> float:
        """How long it waited for its run."""
        return (self.started or time.monotonic()) - self.queued


class Scheduler:
    """Gives one thread's BatchDetector what clients ask for.

    A request first reserves its place (`reserve`), then queues its pictures (`submit`) and at last gives the place
    back (`release`). All of it is called from the event loop; units are backbone and fusion head runs, the measure of
    how long a request takes.
    """

    def __init__(self, batch: BatchDetector, settings: Settings, metrics: Metrics) -> None:
        self.batch = batch
        self.settings = settings
        self.metrics = metrics
        self.is_closing = False
        self._is_closed = False
        self._unit_seconds = 0.0
        self._pictures = 0  # reserved and not released
        self._units = 0
        self._queue: deque[Work] = deque()
        self._changed = threading.Condition()
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._work, name="glip-detector", daemon=True)
        metrics.watch("glip_queue_pictures", "Pictures accepted and not yet answered", lambda: self._pictures)
        metrics.watch("glip_queue_depth", "Pictures that wait for a run", lambda: len(self._queue))
        metrics.watch("glip_image_cache_bytes", "Memory of pictures' features", lambda: batch.cache.nbytes)
        metrics.watch("glip_ready", "0 when shutting down", lambda: float(not self.is_closing))

    def start(self) -> None:
        """Warms the model up and starts the worker; raises BackendError if the model does not run."""
        for _ in range(2):  # the first run compiles and allocates, the second tells the speed
            started = time.monotonic()
            image = self.batch.prepare(np.full(WARM_UP_SHAPE, 128, np.uint8))
            (_, answer), *_ = self.batch.answer([Request(image, "cat. remote control")])
            if isinstance(answer.result, GlipExportError):
                raise answer.result
            self.batch.cache.clear()
            self._unit_seconds = (time.monotonic() - started) / 2
        self._thread.start()

    def check(self) -> None:
        """Raises ServiceError if a request of one picture would not be accepted now; before its body is read."""
        if self.is_closing:
            raise ServiceError(BUSY, "the server is shutting down", status=503, retry_after=10)
        if self._pictures >= self.settings.max_queue:
            raise self.busy(f"{self._pictures} pictures are waiting, as many as this server holds")

    def reserve(self, pictures: int, units: int, seconds: float) -> None:
        """Takes a place for pictures that are to be answered within so many seconds; raises ServiceError if busy."""
        self.check()
        if self._pictures:  # an idle server tries everything
            if self._pictures + pictures > self.settings.max_queue:
                raise self.busy(
                    f"{self._pictures} pictures are waiting and {pictures} more are asked for; "
                    f"this server holds {self.settings.max_queue}"
                )
            expected = (self._units + units) * self._unit_seconds
            if expected > seconds * DEADLINE_SHARE:
                raise self.busy(f"{self._pictures} pictures are waiting, more than can be answered in time")
        self._pictures += pictures
        self._units += units
        self._idle.clear()

    def release(self, pictures: int, units: int) -> None:
        """Gives a place back."""
        self._pictures -= pictures
        self._units -= units
        if not self._pictures:
            self._idle.set()

    def submit(self, works: Sequence[Work]) -> None:
        """Queues pictures whose place was reserved."""
        with self._changed:
            self._queue.extend(works)
            self._changed.notify()

    def cancel(self, works: Sequence[Work]) -> None:
        """Takes back what nobody waits for any more; what runs already stops at its next stage."""
        with self._changed:
            for work in works:
                work.cancelled = True
                if work in self._queue:
                    self._queue.remove(work)
                    self.metrics.dropped.inc()

    async def drain(self) -> None:
        """Accepts nothing more and waits until all that was accepted is answered."""
        self.is_closing = True
        await self._idle.wait()

    def close(self) -> None:
        """Ends the worker after the run that it is in."""
        self.is_closing = True
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def busy(self, message: str) -> ServiceError:
        """429, with the time in which half of what waits should be done."""
        wait = self._units * self._unit_seconds / 2
        return ServiceError(BUSY, f"{message}; try again later", retry_after=min(max(math.ceil(wait), 1), 60))

    def _work(self) -> None:
        while not self._is_closed:
            works = self._take()
            if works:
                self._run(works)

    def _take(self) -> list[Work]:
        """Waits for pictures and takes those to be run next; none if they were taken back, or when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_closed)
            most = 1 if self.batch.runs_in_turn else self.settings.max_batch
            if most > 1:  # those that come within a moment share the run
                self._changed.wait_for(
                    lambda: len(self._queue) >= most or self._is_closed, self.settings.max_wait_ms / 1000
                )
            return [self._queue.popleft() for _ in range(min(len(self._queue), most))]

    def _run(self, works: list[Work]) -> None:
        started = time.monotonic()
        for work in works:
            work.started = started
        self.metrics.batch.observe(len(works))
        waiting = dict(enumerate(works))
        runs = 0
        try:
            requests = [Request(work.image, work.prompt, work.threshold, work.is_wanted) for work in works]
            for index, answer in self.batch.answer(requests):
                work = waiting.pop(index)
                if isinstance(answer.result, DroppedError):
                    self.metrics.dropped.inc()
                else:
                    runs += work.units - answer.cached
                if isinstance(answer.result, BackendError):
                    log.error("the model failed: %s", answer.result)
                _deliver(work, answer)
        except Exception:  # whatever it is, the next request may be well
            log.exception("the model failed")
        for work in waiting.values():
            _deliver(work, Answer(FailedError("the run failed")))
        if runs:
            change = (time.monotonic() - started) / runs - self._unit_seconds
            self._unit_seconds += change * (WHEN_SLOWER if change > 0 else WHEN_FASTER)
            self._shed()

    def _shed(self) -> None:
        """Refuses what would be late by now, instead of letting it wait for its deadline."""
        late: list[Work] = []
        with self._changed:
            expected = time.monotonic()
            for work in list(self._queue):
                finished = expected + work.units * self._unit_seconds
                if finished > work.deadline:
                    self._queue.remove(work)
                    late.append(work)
                else:
                    expected = finished
        for work in late:
            self.metrics.dropped.inc()
            _deliver(work, Answer(CrowdedOutError("it would be late")))


def _deliver(work: Work, answer: Answer) -> None:
    """Hands an answer to the event loop."""

    def deliver() -> None:
        if not work.answer.done():
            work.answer.set_result(answer)

    work.answer.get_loop().call_soon_threadsafe(deliver)
