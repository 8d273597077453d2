"""A sample of a run to look at: some pictures, the same whenever it is taken, drawn in one HTML file."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from glip_export.errors import ImageError
from glip_export.image import load_image
from glip_export.labelling.reading import read_picture
from glip_export.labelling.shards import Labelled, read_shards
from glip_export.labelling.split import place_of
from glip_export.labelling.thresholds import Thresholds
from glip_export.results.detections import Detections
from glip_export.results.gallery import GalleryFigure, GalleryPicture, gallery, gallery_figure

COUNT = 60
_THREADS = 4
_SPARE = 100  # more are kept in mind, for those that cannot be read any more


def write_sample(
    folder: Path,
    names: Sequence[str],
    thresholds: Thresholds,
    target: Path,
    prompt: str,
    source: str,
    count: int = COUNT,
) -> int:
    """Writes a gallery of at most `count` answered pictures of a run's output folder; returns how many it shows.

    The slider starts at the least of the thresholds, and detections below their names' own are not there. prompt,
    source: as of `write_gallery`. Pictures that cannot be read any more are passed over. Raises GlipExportError where
    `target` cannot be written.
    """
    shown = 0
    with gallery(target, prompt, source, thresholds.floor) as add:
        for figure in _figures(sample(read_shards(folder), count + _SPARE), tuple(names), thresholds):
            if shown == count:
                break
            add(figure)
            shown += 1
    return shown


def sample(rows: Iterable[Labelled], count: int) -> list[Labelled]:
    """Answered pictures by a hash of their sources, the least `count` of them, in the memory of that many."""
    answered = (row for row in rows if not row.answer.error)
    return heapq.nsmallest(count, answered, key=lambda row: (place_of(row.source), row.source))


def _figures(rows: Sequence[Labelled], names: tuple[str, ...], thresholds: Thresholds) -> Iterator[GalleryFigure]:
    """Of those that can be read, in their order; a few are read ahead."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(rows), _THREADS):
            some = rows[first : first + _THREADS]
            for figure in pool.map(lambda row: _figure(row, names, thresholds), some):
                if figure is not None:
                    yield figure


def _figure(row: Labelled, names: tuple[str, ...], thresholds: Thresholds) -> GalleryFigure | None:
    answer = thresholds.kept(row.answer)
    try:
        pixels = load_image(read_picture(row.where, row.source), name=repr(row.source))
    except ImageError:
        return None
    size = (answer.height, answer.width)
    if pixels.shape[:2] != size:
        return None  # another picture by now: the boxes are not of it
    found = Detections(answer.boxes, answer.scores, answer.labels.astype(np.int64), names, size)
    return gallery_figure(GalleryPicture(row.source, pixels, found))
