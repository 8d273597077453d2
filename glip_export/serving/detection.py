"""POST /v1/detect: a request from its first byte to its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from glip_export.errors import GlipExportError, ImageError
from glip_export.hints import hints
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.runtime.encoded import EncodedImages
from glip_export.runtime.requests import Answer, DroppedError, PreparedImage, image_key
from glip_export.serving.answers import DEADLINE, UNKNOWN_IMAGE, ServiceError, service_error
from glip_export.serving.payload import ImageId, Payload, media_type, parse
from glip_export.serving.prompts import phrases_of
from glip_export.serving.scheduler import CrowdedOutError, Scheduler, Work
from glip_export.serving.settings import Settings
from glip_export.serving.uploads import Uploads

T = TypeVar("T")
STAGES = ("image", "text", "head")


class ClientGoneError(Exception):
    """The client hung up while its request was waiting."""


@dataclass(frozen=True, eq=False)
class _Accepted:
    """A request that has its place in the queue; what was sent is let go of."""

    images: list[tuple[str, PreparedImage | EncodedImages]]  # with the SHA-256 of each
    prompt: Prompt
    threshold: float
    deadline: float  # time.monotonic()
    units: int
    received: float
    seconds: dict[str, float]
    notes: tuple[str, ...]


class DetectionService:
    """Receives requests, has their pictures prepared in a pool of threads, and waits for the scheduler's answers."""

    def __init__(self, scheduler: Scheduler, settings: Settings, prepare_threads: int) -> None:
        self.scheduler = scheduler
        self.settings = settings
        self.uploads = Uploads(settings)
        self._pool = ThreadPoolExecutor(prepare_threads, thread_name_prefix="glip-prepare")

    async def detect(self, request: Request) -> dict[str, Any]:
        """The answer's JSON; raises ServiceError, ClientGoneError or ClientDisconnect."""
        accepted = await self._accept(request)
        try:
            answers, queued = await self._wait(accepted, request)
        finally:
            self.scheduler.release(len(accepted.images), accepted.units)
        if any(isinstance(answer.result, CrowdedOutError) for answer in answers):
            raise self.scheduler.busy("the server has become slower since this was accepted")
        results = _results(accepted.images, answers)
        timing = {stage: sum(answer.seconds.get(stage, 0.0) for answer in answers) for stage in STAGES}
        timing = {"queue": queued, **timing, "total": time.monotonic() - accepted.received}
        self.scheduler.metrics.observe({**timing, **accepted.seconds})
        for answer in answers:
            self.scheduler.metrics.pictures.labels(str(answer.cached).lower()).inc()
        said = accepted.prompt
        caption = {} if said.caption is None else {"caption": said.caption, "phrases": phrases_of(said)}
        return {
            "results": results,
            **caption,
            "timing_ms": {stage: round(seconds * 1000, 2) for stage, seconds in timing.items()},
            "cached": [answer.cached for answer in answers],
            "warnings": [*accepted.notes, *hints(said)],
        }

    async def _accept(self, request: Request) -> _Accepted:
        """Receives a request and prepares its pictures in a place that is reserved for them."""
        began = time.monotonic()
        content_type = request.headers.get("content-type", "")
        media_type(content_type)
        self.scheduler.check()
        async with self.uploads.receive(request) as body:
            received = time.monotonic()
            payload = await self._in_pool(lambda: parse(body, content_type, self.settings))
            longest = self.settings.deadline_ms
            deadline = received + min(payload.deadline_ms or longest, longest) / 1000
            runs = 1 + await self._in_pool(lambda: self._count_chunks(payload))
            units = len(payload.images) * runs
            self.scheduler.reserve(len(payload.images), units, deadline - time.monotonic())
            try:
                images = await self._prepare(payload.images)
            except BaseException:
                self.scheduler.release(len(payload.images), units)
                raise
        seconds = {"upload": received - began, "prepare": time.monotonic() - received}
        return _Accepted(images, payload.prompt, payload.threshold, deadline, units, received, seconds, payload.notes)

    def close(self) -> None:
        """Ends the pool."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _in_pool(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def _count_chunks(self, payload: Payload) -> int:
        try:
            return len(self.scheduler.batch.detector.chunks(payload.prompt))
        except GlipExportError as error:
            raise service_error(error) from None

    async def _prepare(self, images: Sequence[bytes | ImageId]) -> list[tuple[str, PreparedImage | EncodedImages]]:
        """(SHA-256, picture) of each; those whose features are held are not decoded."""
        several = len(images) > 1

        def prepare(number: int, image: bytes | ImageId) -> tuple[str, PreparedImage | EncodedImages]:
            batch, which = self.scheduler.batch, f"picture {number}: " if several else ""
            key = image.key if isinstance(image, ImageId) else image_key(image)
            held = batch.cache.get(key)
            if held is not None:
                return key, held
            if isinstance(image, ImageId):
                raise ServiceError(UNKNOWN_IMAGE, f"{which}the server no longer holds {key}: send its data")
            try:
                return key, batch.prepare(image)
            except ImageError as error:
                raise service_error(error, which) from None

        jobs = [
            self._in_pool(lambda number=number, image=image: prepare(number, image))  # type: ignore[misc]
            for number, image in enumerate(images, start=1)
        ]
        done = await asyncio.gather(*jobs, return_exceptions=True)  # all: none goes on in the pool unseen
        for result in done:
            if isinstance(result, BaseException):
                raise result
        return [result for result in done if not isinstance(result, BaseException)]

    async def _wait(self, accepted: _Accepted, request: Request) -> tuple[list[Answer], float]:
        """The answers and the longest wait in the queue, unless the deadline passes or the client hangs up first."""
        loop = asyncio.get_running_loop()
        runs = accepted.units // len(accepted.images)
        works = [
            Work(image, accepted.prompt, accepted.threshold, accepted.deadline, runs, loop.create_future())
            for _, image in accepted.images
        ]
        self.scheduler.submit(works)
        answers = asyncio.ensure_future(_all_answers(works))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            left = max(accepted.deadline - time.monotonic(), 0)
            await asyncio.wait((answers, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answers.done():
                return answers.result(), max(work.queue_seconds for work in works)
            if gone.done():
                raise ClientGoneError
            raise ServiceError(DEADLINE, "the answer was not there in time")
        finally:
            gone.cancel()
            if not answers.done():
                answers.cancel()
                self.scheduler.cancel(works)


async def _all_answers(works: Sequence[Work]) -> list[Answer]:
    return [await work.answer for work in works]


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _results(
    images: Sequence[tuple[str, PreparedImage | EncodedImages]], answers: Sequence[Answer]
) -> list[dict[str, Any]]:
    """In the request's order; raises ServiceError if one of them is an error."""
    results = []
    for number, ((key, _), answer) in enumerate(zip(images, answers, strict=True), start=1):
        if isinstance(answer.result, DroppedError):
            raise ServiceError(DEADLINE, "the answer was not there in time")
        if not isinstance(answer.result, Detections):
            raise service_error(answer.result, f"picture {number}: " if len(images) > 1 else "")
        entry = answer.result.to_dict()
        entry["image"] = {"id": key, "width": entry["image"]["width"], "height": entry["image"]["height"]}
        results.append(entry)
    return results
