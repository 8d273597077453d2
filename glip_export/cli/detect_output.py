"""What `glip-export detect` writes: annotated pictures in parallel, JSON and the gallery in the pictures' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glip_export.cli.detect_reading import MAX_THREADS, Failure, usable_cpus
from glip_export.cli.detect_source import Loaded
from glip_export.results.annotated import save_annotated
from glip_export.results.detections import Detections
from glip_export.results.gallery import GalleryFigure, GalleryPicture, gallery, gallery_figure
from glip_export.results.json_stream import JsonStream, json_stream


@dataclass(frozen=True)
class Wanted:
    """What is to be written, and from which score on boxes are drawn and shown."""

    threshold: float = 0.5
    output: Path | None = None  # folder for annotated pictures; None: none are drawn
    json: Path | None = None
    html: Path | None = None

    @property
    def needs_pixels(self) -> bool:
        """Whether pictures are kept until they are drawn."""
        return self.output is not None or self.html is not None


@contextmanager
def writer(wanted: Wanted, head: Mapping[str, Any], prompt: str, title: str) -> Iterator[Writer]:
    """Files take their places when the block ends well; annotated pictures do as they are drawn.

    head: what the JSON says before the results. prompt, title: of the gallery. Raises GlipExportError where something
    cannot be written.
    """
    with ExitStack() as stack:
        document = None if wanted.json is None else stack.enter_context(json_stream(wanted.json, head))
        add_figure = None
        if wanted.html is not None:
            add_figure = stack.enter_context(gallery(wanted.html, prompt, title, wanted.threshold))
        threads = min(MAX_THREADS, usable_cpus())
        pool = ThreadPoolExecutor(threads)
        stack.callback(pool.shutdown, cancel_futures=True)
        writing = Writer(wanted, document, add_figure, pool, waiting=2 * threads)
        yield writing
        writing.finish()


class Writer:
    """Takes pictures and their detections in order, and returns before they are written, but for the oldest ones."""

    def __init__(
        self,
        wanted: Wanted,
        document: JsonStream | None,
        add_figure: Callable[[GalleryFigure], None] | None,
        pool: ThreadPoolExecutor,
        waiting: int,
    ) -> None:
        """waiting: pictures that may wait to be written; each is held in memory."""
        self._wanted = wanted
        self._document = document
        self._add_figure = add_figure
        self._pool = pool
        self._most = waiting
        self._waiting: deque[Future[GalleryFigure | None]] = deque()
        self._errors: list[dict[str, str]] = []

    def add(self, picture: Loaded, detections: Detections) -> None:
        """Writes a picture's results."""
        if self._document is not None:
            target = picture.found.annotated
            file, annotated = str(picture.found.path), None if target is None else str(target)
            self._document.add({"file": file, "annotated": annotated, **detections.to_dict()})
        if self._wanted.needs_pixels:
            self._waiting.append(self._pool.submit(self._render, picture, detections))
            self._write_down_to(self._most)

    def add_failure(self, failure: Failure) -> None:
        """Notes a picture that there are no detections of."""
        self._errors.append({"file": str(failure.found.path), "error": str(failure.error)})

    def finish(self) -> None:
        """Waits for all pictures and ends the JSON."""
        self._write_down_to(0)
        if self._document is not None:
            self._document.end({"errors": self._errors})

    def _render(self, picture: Loaded, detections: Detections) -> GalleryFigure | None:
        target = picture.found.annotated
        assert picture.pixels is not None  # as Wanted.needs_pixels told the source
        if target is not None:
            save_annotated(detections.draw(picture.pixels, self._wanted.threshold), target)
        if self._add_figure is None:
            return None
        return gallery_figure(GalleryPicture(str(picture.found.relative), picture.pixels, detections))

    def _write_down_to(self, most: int) -> None:
        while len(self._waiting) > most:
            figure = self._waiting.popleft().result()
            if self._add_figure is not None and figure is not None:
                self._add_figure(figure)
