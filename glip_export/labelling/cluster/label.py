"""Blocks of pictures labelled by a cluster's workers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from glip_export.labelling.cluster.metrics import Metrics
from glip_export.labelling.cluster.run import answers
from glip_export.labelling.cluster.settings import Cluster
from glip_export.labelling.items import Answer, Block, BlockAnswer
from glip_export.labelling.local import Worker as Answering
from glip_export.labelling.local import set_aside
from glip_export.labelling.worker import Opening

Labelled = tuple[Block, BlockAnswer]


def label_on(
    cluster: Cluster, blocks: Callable[[], Iterator[Block]], opening: Opening
) -> Generator[Labelled, None, None]:
    """Each block and its answers, as they come; a block without items comes back as it is.

    blocks: can be pickled, and is called in a process beside this one. A picture over which two workers ended is
    answered by an error. Raises what opening and reading the source raise, and BackendError for what befalls the
    cluster. Closed early, it ends the workers.
    """
    for _, labelled in answers(cluster, blocks, LabelJob(opening)):
        yield labelled


@dataclass(frozen=True)
class LabelJob:
    """Blocks, two at once in a worker: the pictures of one are fetched while those of the other are run."""

    opening: Opening
    at_once: int = 2

    @property
    def bundle(self) -> Path:
        """The driver's."""
        return Path(self.opening.bundle)

    def open(self, bundle: Path) -> Callable[[Block], Labelled]:
        """The labeller, its bundle there."""
        return _Blocks(replace(self.opening, bundle=str(bundle))(), Metrics(self.opening.backend))

    def parts(self, task: Block) -> Sequence[Block]:
        """A block a picture."""
        return [replace(task, first=task.first + place, items=(item,)) for place, item in enumerate(task.items)]

    def joined(self, task: Block, answers: Sequence[Labelled]) -> Labelled:
        """Of its pictures."""
        parts = [answer for _, answer in answers]
        each = tuple(one for part in parts for one in part.answers)
        hints = tuple(dict.fromkeys(hint for part in parts for hint in part.hints))
        return task, BlockAnswer(task.first, each, sum(part.seconds for part in parts), hints)

    def set_aside(self, task: Block, reason: str) -> Labelled:
        """Of one picture."""
        return task, BlockAnswer(task.first, tuple(Answer.failed(set_aside(item)) for item in task.items))


class _Blocks:
    """A labeller's answers, each with its block: the driver holds none."""

    def __init__(self, answering: Answering, metrics: Metrics) -> None:
        self._answering = answering
        self._metrics = metrics

    def __call__(self, block: Block) -> Labelled:
        answer = self._answering(block) if block.items else BlockAnswer(block.first, ())
        errors = sum(bool(one.error) for one in answer.answers)
        boxes = sum(len(one.labels) for one in answer.answers)
        self._metrics.add(len(answer.answers), errors, boxes, answer.seconds)
        return block, answer
