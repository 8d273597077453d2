"""A detector that looks at nothing: what is left of a run is machinery. Workers import it, so it is a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glip_export.image import load_image
from glip_export.labelling.worker import Labeller
from glip_export.results.detections import Detections

BOXES = 8  # a picture
NAMES = ("cat", "dog", "cup", "chair")


@dataclass(frozen=True)
class StubOpening:
    """In place of a labelling.worker.Opening. decode: the pictures are decoded, and thrown away."""

    bundle: str
    decode: bool = False
    backend: str = "stub"  # in the metrics

    def __call__(self) -> Labeller:
        return Labeller(StubAnswering(self.decode))


class StubAnswering:
    """The same boxes on every picture."""

    ahead = False

    def __init__(self, decode: bool) -> None:
        self._decode = decode
        corners = np.arange(BOXES, dtype=np.float32)
        boxes = np.stack([corners, corners, corners + 100, corners + 80], axis=1)
        labels = np.arange(BOXES, dtype=np.int64) % len(NAMES)
        scores = np.linspace(0.9, 0.5, BOXES, dtype=np.float32)
        self._found = Detections(boxes, scores, labels, NAMES, (480, 640))

    def prepare(self, picture: Any) -> Any:
        """The picture, or None for one that was decoded."""
        if not self._decode:
            return picture
        load_image(picture)
        return None

    def find(self, pictures: Sequence[Any]) -> Iterator[Detections]:
        """The same for each."""
        return (self._found for _ in pictures)
