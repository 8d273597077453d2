"""Batches through the workers of a Ray cluster, answered in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from glip_export.errors import BackendError, GlipExportError
from glip_export.evaluation.openers import Opener
from glip_export.evaluation.pictures import PictureBatch
from glip_export.evaluation.workers import Answer, Work, detect
from glip_export.labelling.cluster.run import answers
from glip_export.labelling.cluster.settings import Cluster


def detect_on(
    cluster: Cluster,
    work: Work,
    opener: object,
    batches: Callable[[], Iterator[PictureBatch]],
    strict: bool = False,
) -> Iterator[Answer]:
    """Like `detect_in_order`, by a cluster. batches: can be pickled; called in a process beside this one.

    The pictures are read here and sent with their batches, so that what runs together depends on the files alone, and
    other machines need not have them. What is answered early waits here, without pixels, for its turn. Raises
    GlipExportError for what opens no bundle that could be sent; else what `answers` and the work raise.
    """
    if not isinstance(opener, Opener):
        raise GlipExportError("a cluster needs what opens a bundle, not an open detector")
    early: dict[int, Answer] = {}
    turn = 0
    for index, answer in answers(cluster, batches, _Job(work, opener, strict)):
        early[index] = answer
        while turn in early:
            yield early.pop(turn)
            turn += 1


@dataclass(frozen=True)
class _Job:
    work: Work
    opener: Opener
    strict: bool
    at_once: int = 1

    @property
    def bundle(self) -> Path:
        """The driver's."""
        return self.opener.bundle

    def open(self, bundle: Path) -> Callable[[PictureBatch], Answer]:
        """The detector, its bundle there."""
        detector = self.opener.at(bundle)()
        return lambda batch: detect(self.work, detector, batch, self.strict)

    def parts(self, task: PictureBatch) -> Sequence[PictureBatch]:
        """None: padded apart its pictures would give other results."""
        return ()

    def joined(self, task: PictureBatch, answers: Sequence[Answer]) -> Answer:
        """Of one part, the task itself."""
        (answer,) = answers
        return answer

    def set_aside(self, task: PictureBatch, reason: str) -> Answer:
        """Average precision without some of the pictures would be none."""
        names = ", ".join(image.file_name for image in task.images)
        raise BackendError(
            f"{reason}: {names}; killed, perhaps for memory (each worker holds the model), or by a fault of the backend"
        )
