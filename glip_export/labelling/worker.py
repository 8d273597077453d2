"""A worker: pictures of a block fetched ahead, each answered as the Detector answers it for that picture ALONE."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from glip_export.errors import BackendError, GlipExportError, GlipExportWarning, ImageError
from glip_export.hints import Hinter
from glip_export.image import Picture
from glip_export.labelling.items import Answer, Block, BlockAnswer, Item
from glip_export.labelling.reading import read_picture
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.runtime.detector import Detector
from glip_export.runtime.request_batch import BatchDetector
from glip_export.runtime.requests import PreparedImage, Request

FETCHERS = 4  # threads; for a GPU they decode too
MOST_FAILED_RUNS = 10  # in a row: then it is the backend that is broken, and not the pictures

Found = Detections | GlipExportError


class Answering(Protocol):
    """What finds objects in pictures, each as if alone. `prepare` is for any thread, `find` for one at a time."""

    ahead: bool  # whether pictures are prepared in threads while others are run, as pays where a GPU runs them

    def prepare(self, picture: Picture) -> Picture | PreparedImage:
        """Decodes and resizes a picture; raises ImageError."""
        ...

    def find(self, pictures: Sequence[Picture | PreparedImage]) -> Iterator[Found]:
        """What is found on each, or the error that it alone has, in their order."""
        ...


@dataclass(frozen=True)
class Opening:
    """What opens a worker, wherever it is: it can be pickled, and is small.

    floor: the least score that is kept. chunk: names a caption. See `Detector.open` and `Detector.detect`.
    """

    bundle: str
    backend: str
    prompt: Prompt
    floor: float = 0.0
    threads: int | None = None
    weights: str | None = None
    chunk: int | None = None
    class_agnostic_nms: bool = False
    gpu_preprocess: bool = False

    def __call__(self) -> Labeller:
        """Opens the detector; raises BundleError, BackendError, PromptError."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", GlipExportWarning)
            detector = Detector.open(
                self.bundle, self.backend, self.threads, self.weights, gpu_preprocess=self.gpu_preprocess
            )
            if self.chunk is not None:
                detection = replace(detector.config.detection, chunk=self.chunk)
                detector = detector.reconfigured(replace(detector.config, detection=detection))
            detector.chunks(self.prompt)
            Hinter().tell(self.prompt)
        hints = [str(each.message) for each in caught if issubclass(each.category, GlipExportWarning)]
        return Labeller(_Answering(detector, self), hints)


class Labeller:
    """Answers blocks. From several threads at once: one prepares pictures while another's are run."""

    def __init__(self, answering: Answering, hints: Sequence[str] = ()) -> None:
        """hints: what a person should know, told once with the first answer."""
        self._answering = answering
        self._hints = tuple(hints)
        self._pool = ThreadPoolExecutor(FETCHERS, "glip-fetch")
        self._fetched: dict[int, list[Future[Picture | PreparedImage]]] = {}  # by the block's first place
        self._running = threading.Lock()
        self._failed_runs = 0

    def fetch(self, block: Block) -> None:
        """Begins to fetch the pictures of a block that will be asked for soon."""
        self._fetched[block.first] = [self._pool.submit(self._load, item) for item in block.items]

    def __call__(self, block: Block) -> BlockAnswer:
        """The block's answers. Raises BackendError where ten pictures in a row could not be run."""
        if block.first not in self._fetched:
            self.fetch(block)
        pictures = self._fetched.pop(block.first)
        if len(pictures) != len(block.items):  # another block that begins there, of which one was fetched before
            pictures = [self._pool.submit(self._load, item) for item in block.items]
        with self._running:
            started = time.perf_counter()
            answers = self._answers(pictures)
            seconds = time.perf_counter() - started
            hints, self._hints = self._hints, ()
        return BlockAnswer(block.first, answers, seconds, hints)

    def _load(self, item: Item) -> Picture | PreparedImage:
        if item.problem:
            raise ImageError(item.problem)
        picture = read_picture(item.where, item.source)
        return self._answering.prepare(picture) if self._answering.ahead else picture

    def _answers(self, pictures: Sequence[Future[Picture | PreparedImage]]) -> tuple[Answer, ...]:
        if not self._answering.ahead:
            return tuple(answer for one in pictures for answer in self._run([one]))
        return tuple(self._run(pictures))

    def _run(self, pictures: Sequence[Future[Picture | PreparedImage]]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        usable: dict[int, Picture | PreparedImage] = {}
        for place, picture in enumerate(pictures):
            try:
                loaded = picture.result()
                usable[place] = loaded if self._answering.ahead else self._answering.prepare(loaded)  # type: ignore[arg-type]
            except ImageError as error:
                answers[place] = Answer.failed(str(error))
        for place, found in zip(usable, self._answering.find(list(usable.values())), strict=True):
            self._count(found)
            answers[place] = Answer.failed(str(found)) if isinstance(found, GlipExportError) else _answer(found)
        return [answers[place] for place in range(len(pictures))]

    def _count(self, found: Found) -> None:
        self._failed_runs = self._failed_runs + 1 if isinstance(found, BackendError) else 0
        if self._failed_runs == MOST_FAILED_RUNS:
            raise BackendError(f"{MOST_FAILED_RUNS} pictures in a row could not be run; the last one: {found}")


class _Answering:
    """Through a Detector."""

    def __init__(self, detector: Detector, opening: Opening) -> None:
        several = detector.config.detection.several_scales
        self._detector = detector
        self._opening = opening
        self._batch = None if several else BatchDetector(detector, image_cache_bytes=0)
        # torch on a processor gains nothing by batches either, and its last digits would depend on them.
        self.ahead = self._batch is not None and not self._batch.runs_in_turn and opening.backend != "torch"

    def prepare(self, picture: Picture) -> Picture | PreparedImage:
        """At several scales `Detector.detect` resizes the picture."""
        return picture if self._batch is None else self._batch.prepare(picture)

    def find(self, pictures: Sequence[Picture | PreparedImage]) -> Iterator[Found]:
        """With what the opening says."""
        for found in self._each(pictures):
            if isinstance(found, Detections):
                if self._opening.class_agnostic_nms:
                    found = found.class_agnostic_nms(self._detector.config.detection.nms_threshold)
                found = found.above(self._opening.floor)
            yield found

    def _each(self, pictures: Sequence[Picture | PreparedImage]) -> Iterator[Found]:
        if self._batch is not None:
            yield from self._batch.detect_each([Request(picture, self._opening.prompt) for picture in pictures])
            return
        for picture in pictures:
            assert not isinstance(picture, PreparedImage)
            try:
                yield self._detector.detect([picture], self._opening.prompt)[0]
            except (ImageError, BackendError) as error:
                yield error


def _answer(found: Detections) -> Answer:
    height, width = found.image_size
    return Answer(
        int(height),
        int(width),
        found.labels.astype(np.int32),
        found.scores.astype(np.float32),
        found.boxes.astype(np.float32),
    )
