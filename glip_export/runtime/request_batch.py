"""Many (picture, prompt) requests at once, each answered as the Detector answers it for that picture ALONE.

Padding changes GLIP's results, so pictures share a run of the backbone only where their own padded sizes are equal.
Prompts share a run of the fusion head whatever their length: padded tokens are masked, and the columns of class_map
that pad a shorter list of names score 0. A session that takes the rows of a batch in turn (on a CPU) is given one
request after another, which costs no padding and answers the first sooner.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from glip_export.errors import BackendError, GlipExportError
from glip_export.image import MAX_PIXELS, Picture, load_image, padded_shape, picture_name, resize
from glip_export.prompt import Prompt, TokenizedChunk
from glip_export.results.detections import Detections, concatenate
from glip_export.runtime.detector import Detector, mask_of, picture_detections
from glip_export.runtime.encoded import EncodedImages, joined, joined_arrays, selected
from glip_export.runtime.image_cache import ImageCache
from glip_export.runtime.multiscale import check_one_scale
from glip_export.runtime.requests import Answer, DroppedError, PreparedImage, Request, image_key
from glip_export.runtime.session import F32, I64

T = TypeVar("T")

MAX_ROWS = 8  # pictures a run of the backbone, or rows a run of the fusion head
IMAGE_CACHE_BYTES = 256_000_000


@dataclass(eq=False)
class _Job:
    """A request on its way."""

    request: Request
    prompt: Prompt
    chunks: tuple[TokenizedChunk, ...]
    key: str | None = None
    prepared: PreparedImage | None = None
    encoded: EncodedImages | None = None
    cached: bool = False
    error: GlipExportError | None = None
    parts: dict[int, Detections] = field(default_factory=dict)  # by the chunk's first name
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def is_live(self) -> bool:
        """Whether it goes on: it has no error, and its answer is still wanted."""
        if self.error is None and not self.request.wanted():
            self.error = DroppedError("the answer is no longer wanted")
        return self.error is None


class _Row(NamedTuple):
    """One caption over one picture."""

    job: _Job
    encoded: EncodedImages
    chunk: TokenizedChunk


class BatchDetector:
    """Answers requests in shared runs over one Detector; features of pictures are kept by the hash of their bytes.

    `prepare` and `cache` may be used from any thread, all else from one at a time.
    """

    def __init__(
        self,
        detector: Detector,
        max_rows: int = MAX_ROWS,
        image_cache_bytes: int = IMAGE_CACHE_BYTES,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """max_rows: pictures or captions a run. max_pixels: of a picture as given.

        Raises GlipExportError for a bundle that sees pictures at several scales.
        """
        check_one_scale(detector.config, "a service")
        if detector.baked is not None:
            raise GlipExportError(f"{detector.baked.path} is a baked model; a service takes the bundle it came from")
        if max_rows < 1:
            raise GlipExportError(f"max_rows is {max_rows}; it is 1 or more")
        self.detector = detector
        self.max_rows = max_rows
        self.max_pixels = max_pixels
        self.cache = ImageCache(image_cache_bytes)

    @property
    def runs_in_turn(self) -> bool:
        """Whether the session takes the rows of a batch one after another, so that nothing is gained by sharing."""
        return bool(getattr(self.detector.session, "one_by_one", False))

    def detect_each(self, requests: Sequence[Request]) -> list[Detections | GlipExportError]:
        """Each request's detections, or the error that it alone has."""
        results: dict[int, Detections | GlipExportError] = {i: answer.result for i, answer in self.answer(requests)}
        return [results[index] for index in range(len(requests))]

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """(index, answer) of every request, as soon as it is there."""
        jobs: dict[int, _Job] = {}
        for index, request in enumerate(requests):
            try:
                prompt = Prompt.of(request.prompt)
                jobs[index] = _Job(request, prompt, self.detector.chunks(prompt))
            except GlipExportError as error:
                yield index, Answer(error)
        indices = list(jobs)
        for group in [[index] for index in indices] if self.runs_in_turn else [indices]:
            self._run([jobs[index] for index in group])
            yield from ((index, _answer(jobs.pop(index))) for index in group)

    def prepare(self, image: Picture) -> PreparedImage:
        """Decodes and resizes a picture; raises ImageError. For any thread."""
        pixels = load_image(image, self.max_pixels)
        original = pixels.shape[0], pixels.shape[1]
        resized = resize(pixels, self.detector.config.image, self.detector.image_size, picture_name(image))
        return PreparedImage(image_key(image if isinstance(image, bytes) else pixels), resized, original)

    def _run(self, jobs: list[_Job]) -> None:
        seen: dict[str, PreparedImage] = {}
        for job in _live(jobs):
            try:
                with _timed("prepare", [job]):
                    self._find_image(job, seen)
            except GlipExportError as error:
                job.error = error
        held = [job for job in jobs if job.encoded is not None]
        for group in self._image_groups([job for job in jobs if job.prepared is not None]):
            wanted = [same for same in map(_live, group) if same]
            if not wanted:
                continue
            self._encode_group(wanted)
            # Their objects at once, so that the features of no more pictures than a run takes lie in memory.
            ready = _live([job for same in wanted for job in same])
            sizes = {_map_size(job.encoded) for job in ready}
            self._find_objects([*(job for job in _live(held) if _map_size(job.encoded) in sizes), *ready])
            held = [job for job in held if job.encoded is not None]
        self._find_objects(_live(held))

    def _find_image(self, job: _Job, seen: dict[str, PreparedImage]) -> None:
        """The picture's features where they are held, else the picture prepared; the same one once."""
        image = job.request.image
        if isinstance(image, EncodedImages):
            job.encoded, job.cached = image, True
            return
        if not isinstance(image, (PreparedImage, bytes)):
            image = self.prepare(image)
        job.key = image.key if isinstance(image, PreparedImage) else image_key(image)
        job.encoded = self.cache.get(job.key)
        job.cached = job.encoded is not None
        if job.encoded is None:
            if isinstance(image, bytes):
                image = seen.get(job.key) or self.prepare(image)
            job.prepared = seen.setdefault(job.key, image)

    def _image_groups(self, jobs: list[_Job]) -> Iterator[list[list[_Job]]]:
        """What shares a run of the backbone: pictures of one padded size, each with the jobs that want it."""
        sizes: dict[tuple[int, int], dict[str, list[_Job]]] = defaultdict(lambda: defaultdict(list))
        for job in jobs:
            assert job.prepared is not None and job.key is not None
            h, w = job.prepared.pixels.shape[:2]
            shape = padded_shape([(h, w)], self.detector.config.image, self.detector.image_size)
            sizes[shape][job.key].append(job)
        for pictures in sizes.values():
            yield from _groups(list(pictures.values()), self.max_rows)

    def _encode_group(self, group: list[list[_Job]]) -> None:
        """One of `_image_groups`: the features to their jobs, or the error."""
        jobs = [job for same in group for job in same]
        encoded: list[EncodedImages] | None = None
        try:
            with _timed("image", jobs):
                encoded = self._encoded([same[0].prepared for same in group if same[0].prepared is not None])
        except BackendError as error:
            if len(group) == 1:
                for job in jobs:
                    job.error = error
                return
        if encoded is None:  # an engine's profile may not hold so many, or one of them is at fault
            for part in _halves(group):  # when what the failed run held is gone with its error
                self._encode_group(part)
            return
        for same, one in zip(group, encoded, strict=True):
            for job in same:
                job.encoded, job.prepared = one, None
            self.cache.put(str(same[0].key), one)

    def _encoded(self, images: list[PreparedImage]) -> list[EncodedImages]:
        """Each apart, so that it can be let go of."""
        batch = self.detector.batch_of([image.pixels for image in images], [image.original for image in images])
        together = self.detector.encode_batch(batch)
        return [selected(together, [index]) for index in range(len(images))]

    def _find_objects(self, jobs: list[_Job]) -> None:
        """Runs the fusion head over captions of one pyramid size at a time, those of like length together.

        The jobs' features are then let go of.
        """
        sizes: dict[tuple[int, ...], list[_Row]] = defaultdict(list)
        for job in jobs:
            assert job.encoded is not None
            for chunk in job.chunks:
                sizes[self._head_size(job.encoded, chunk)].append(_Row(job, job.encoded, chunk))
        most = 1 if self.runs_in_turn else self.max_rows
        for rows in sizes.values():
            rows.sort(key=lambda row: len(row.chunk.input_ids))  # stable: a job's chunks of one length stay in order
            for group in _groups(rows, most):
                self._find_group([row for row in group if row.job.is_live()])
        for job in jobs:
            job.encoded = None

    def _head_size(self, encoded: EncodedImages, chunk: TokenizedChunk) -> tuple[int, ...]:
        """What must be equal in one run of the fusion head."""
        shape = _map_size(encoded)
        # A threshold below 0 would let through the columns that pad class_map, which score 0.
        return shape if self.detector.config.detection.score_threshold >= 0 else (*shape, len(chunk.class_tokens))

    def _find_group(self, rows: list[_Row]) -> None:
        if not rows:
            return
        jobs = list({id(row.job): row.job for row in rows}.values())
        found = None
        try:
            with _timed("text", jobs):
                texts = [self.detector.encode_text(row.chunk) for row in rows]
            with _timed("head", jobs):
                found = self._fusion_head(rows, texts)
        except BackendError as error:
            if len(rows) == 1:
                rows[0].job.error = error
                return
        if found is None:
            for part in _halves(rows):
                self._find_group(part)
            return
        for index, (job, encoded, chunk) in enumerate(rows):
            names = job.prompt.names[chunk.first : chunk.first + len(chunk.class_tokens)]
            detections = picture_detections(found, index, encoded.sizes[0], encoded.originals[0], names)
            job.parts[chunk.first] = detections

    def _fusion_head(self, rows: list[_Row], texts: list[F32]) -> tuple[F32, F32, I64, I64]:
        """One run over rows of one pyramid size; shorter captions and lists of names are padded."""
        tokens = max(text.shape[1] for text in texts)
        names = max(len(row.chunk.class_tokens) for row in rows)
        mask = np.concatenate([mask_of(row.chunk, tokens) for row in rows])
        maps = np.stack([self.detector.class_map(row.chunk, tokens, names) for row in rows])
        encoded = rows[0].encoded if len(rows) == 1 else joined([row.encoded for row in rows])
        text = _text_of(texts, tokens)
        features, text = self.detector.head_inputs(encoded, text, mask)
        return self.detector.session.fusion_head(features, text, mask, maps, encoded.sizes)


def _map_size(encoded: EncodedImages | None) -> tuple[int, ...]:
    assert encoded is not None
    return (encoded.features[0] if encoded.images is None else encoded.images).shape


def _text_of(texts: list[F32], tokens: int) -> F32:
    """(1, T, L) each, as one batch in which shorter ones are padded; those of a GPU stay there if all are as long."""
    if all(text.shape[1] == tokens for text in texts):
        return joined_arrays(texts)
    return np.concatenate([np.pad(text, ((0, 0), (0, tokens - text.shape[1]), (0, 0))) for text in texts])


def _answer(job: _Job) -> Answer:
    if job.error is not None:
        return Answer(job.error, job.cached, dict(job.seconds))
    result = concatenate([job.parts[first] for first in sorted(job.parts)])
    return Answer(result.above(job.request.threshold), job.cached, dict(job.seconds))


def _live(jobs: list[_Job]) -> list[_Job]:
    return [job for job in jobs if job.is_live()]


def _groups(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _halves(items: list[T]) -> tuple[list[T], list[T]]:
    return items[: len(items) // 2], items[len(items) // 2 :]


@contextmanager
def _timed(stage: str, jobs: list[_Job]) -> Iterator[None]:
    """Adds the block's seconds to the stage of each job."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - started
        for job in jobs:
            job.seconds[stage] += seconds
