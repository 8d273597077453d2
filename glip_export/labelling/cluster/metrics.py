"""What a worker did, for Ray's dashboard and Prometheus: named ray_glip_export_..., with the backend's name."""

from __future__ import annotations

from typing import Any

SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]  # bounds of the histogram's bars


class Metrics:
    """A worker's own; Ray adds those of all workers up."""

    def __init__(self, backend: str) -> None:
        from ray.util.metrics import Counter, Histogram

        def counter(name: str, what: str) -> Any:
            return Counter(f"glip_export_{name}", what, ("backend",))

        self._tags = {"backend": backend}
        self._pictures = counter("pictures", "Pictures that were answered, those with an error too.")
        self._errors = counter("errors", "Pictures that could not be read or run.")
        self._boxes = counter("boxes", "Boxes that were found.")
        what = "A worker's time for a picture, the mean of those that it took at once."
        self._seconds = Histogram("glip_export_picture_seconds", what, SECONDS, ("backend",))

    def add(self, pictures: int, errors: int, boxes: int, seconds: float) -> None:
        """Some pictures that were answered together. seconds: that all of them took."""
        for metric, value in ((self._pictures, pictures), (self._errors, errors), (self._boxes, boxes)):
            if value:
                metric.inc(value, self._tags)
        if pictures:
            self._seconds.observe(seconds / pictures, self._tags)
