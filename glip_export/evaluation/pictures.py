"""A data set's pictures in batches, read ahead; those that cannot be read are left out before batches are made."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from glip_export.config import ImageConfig
from glip_export.errors import ImageError
from glip_export.evaluation.entries import CocoImage, ImageId
from glip_export.evaluation.problems import Problem
from glip_export.image import U8, load_image, resize_shape

MISSING, UNREADABLE, OTHER_SIZE = "picture: missing", "picture: unreadable", "picture: of another size"

_Loaded = tuple[U8, bool] | ImageError  # the picture, and whether EXIF turned it


@dataclass
class PictureBatch:
    """Pictures that run together, and those before or among them that were left out."""

    images: list[CocoImage] = field(default_factory=list)
    pictures: list[U8] = field(default_factory=list)
    tried: list[ImageId] = field(default_factory=list)  # ids of all, in order
    left_out: list[ImageId] = field(default_factory=list)
    turned: list[ImageId] = field(default_factory=list)  # upright by EXIF, since they are annotated so
    problems: list[Problem] = field(default_factory=list)

    @property
    def read(self) -> list[ImageId]:
        """Ids of the pictures that run."""
        return [image.id for image in self.images]

    def without_pixels(self) -> PictureBatch:
        """What is left to say of it once it ran."""
        return replace(self, pictures=[])


def in_groups(images: Sequence[CocoImage], aspect_groups: bool) -> list[list[CocoImage]]:
    """The pictures in the order in which they run; no batch reaches from one group into the next.

    aspect_groups: wide pictures first, then tall and square ones (GLIP: DATALOADER.ASPECT_RATIO_GROUPING); by the
    annotated sizes, without which a picture counts as tall. Else all in one group.
    """
    if not aspect_groups:
        return [list(images)]
    wide = [image for image in images if image.size is not None and image.size[0] < image.size[1]]
    chosen = {image.id for image in wide}
    return [wide, [image for image in images if image.id not in chosen]]


def read_batches(
    groups: Sequence[Sequence[CocoImage]], done: int, batch: int, config: ImageConfig, threads: int = 1
) -> Iterator[PictureBatch]:
    """Batches of `batch` readable pictures, from the `done`-th of all pictures on, the next one read meanwhile.

    A picture that cannot be read takes no place: the batch is filled with the next one, so that what runs together
    depends on the files alone. The last batch of a group may be smaller. threads: that read pictures.
    """
    with ThreadPoolExecutor(threads) as pool:
        for group in groups:
            yield from _batches(_loaded(group[done:], batch + threads - 1, config, pool), batch)
            done = max(0, done - len(group))


def _loaded(
    images: Sequence[CocoImage], ahead: int, config: ImageConfig, pool: ThreadPoolExecutor
) -> Iterator[tuple[CocoImage, _Loaded]]:
    """Each with what became of reading it, in their order; `ahead` more are read meanwhile."""
    waiting: deque[tuple[CocoImage, Future[_Loaded]]] = deque()
    for image in images:
        waiting.append((image, pool.submit(_load, image, config)))
        if len(waiting) > ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


def _batches(loaded: Iterator[tuple[CocoImage, _Loaded]], batch: int) -> Iterator[PictureBatch]:
    """Of one group."""
    current = PictureBatch()
    for image, what in loaded:
        _add(image, what, current)
        if len(current.images) == batch:
            yield current
            current = PictureBatch()
    if current.tried:
        yield current


def load_as_annotated(image: CocoImage) -> tuple[U8, bool]:
    """The picture (H, W, 3) as its annotations see it, and whether EXIF had to turn it for that.

    As stored, whatever EXIF says, like the original's loader and the tools that wrote most data sets; turned only where
    the annotated size is the turned picture's and not the stored one's. Raises ImageError.
    """
    picture = load_image(image.path, upright=False)
    if image.size is None or image.size == picture.shape[:2] or image.size != picture.shape[1::-1]:
        return picture, False
    upright = load_image(image.path)
    return (upright, True) if upright.shape[:2] == image.size else (picture, False)


def _load(image: CocoImage, config: ImageConfig) -> _Loaded:
    try:
        picture, turned = load_as_annotated(image)
        resize_shape(picture.shape[0], picture.shape[1], config)  # some cannot be resized
        return picture, turned
    except ImageError as error:
        return error


def _add(image: CocoImage, loaded: _Loaded, batch: PictureBatch) -> None:
    batch.tried.append(image.id)
    if isinstance(loaded, ImageError):
        batch.left_out.append(image.id)
        kind = UNREADABLE if os.path.exists(image.path) else MISSING
        batch.problems.append(Problem(kind, f"picture {image.id}: {loaded}"))
        return
    picture, turned = loaded
    if image.size is not None and picture.shape[:2] != image.size:
        (height, width), (h, w) = image.size, picture.shape[:2]
        text = f"picture {image.id}: {image.file_name!r} is {w} x {h} pixels, annotated as {width} x {height}"
        batch.problems.append(Problem(OTHER_SIZE, text))
    if turned:
        batch.turned.append(image.id)
    batch.images.append(image)
    batch.pictures.append(picture)
