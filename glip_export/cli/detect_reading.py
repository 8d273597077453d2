"""Pictures read ahead of the detector: as many as a batch, whatever the number of all."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from glip_export.cli.detect_inputs import Found
from glip_export.cli.detect_source import Loaded
from glip_export.errors import ImageError

MAX_THREADS = 4  # each decodes one picture: 12 megapixels take 36 MB, and for a moment the double


@dataclass(frozen=True)
class Failure:
    """A picture that there are no detections of, and why."""

    found: Found
    error: ImageError


@dataclass(eq=False)
class PictureBatch:
    """Pictures that run together, and those before or among them that cannot be read."""

    pictures: list[Loaded] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """Pictures that are done with this batch."""
        return len(self.pictures) + len(self.failures)


def read_batches(pictures: Sequence[Found], size: int, load: Callable[[Found], Loaded]) -> Iterator[PictureBatch]:
    """Batches of `size` pictures in their order; the next batch is read while the caller has this one.

    A picture that cannot be read takes no place in a batch. load: raises ImageError; called in threads.
    """
    batch = PictureBatch()
    threads = min(MAX_THREADS, usable_cpus())
    for result in _read(pictures, load, threads, ahead=max(size, threads)):
        if isinstance(result, Failure):
            batch.failures.append(result)
        else:
            batch.pictures.append(result)
        del result  # the caller alone holds the pictures that it was given
        if len(batch.pictures) == size:
            yield batch
            batch = PictureBatch()
    if batch.tried:
        yield batch


def usable_cpus() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _read(
    pictures: Sequence[Found], load: Callable[[Found], Loaded], threads: int, ahead: int
) -> Iterator[Loaded | Failure]:
    def read(found: Found) -> Loaded | Failure:
        try:
            if found.problem:
                raise ImageError(found.problem)
            return load(found)
        except ImageError as error:
            return Failure(found, error)

    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Loaded | Failure]] = deque()
    try:
        for found in pictures:
            waiting.append(pool.submit(read, found))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
