"""An ODinW data set through a Detector, with its task's words and sizes, to COCO's average precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.evaluation.coco import CocoResult, evaluate_coco
from glip_export.evaluation.journal import Journal
from glip_export.evaluation.odinw.dataset import OdinwDataset
from glip_export.evaluation.odinw.task import OdinwTask
from glip_export.evaluation.prompts import in_turn, names_a_caption, prompt_for, prompt_notes
from glip_export.evaluation.run import Workers
from glip_export.runtime.detector import Detector

BATCH = 1  # pictures padded together; GLIP's README: TEST.IMS_PER_BATCH 1


@dataclass(frozen=True)
class OdinwResult(CocoResult):
    """A result whose detections are in a file: many data sets' are not kept in memory."""

    count: int = 0

    @classmethod
    def of(cls, result: CocoResult) -> Self:
        """The result without its detections."""
        kept = {field.name: getattr(result, field.name) for field in fields(CocoResult)}
        return cls(**{**kept, "blocks": ()}, count=result.found)

    @property
    def found(self) -> int:
        """See `CocoResult`."""
        return self.count


def read_dataset(task: OdinwTask, limit: int | None = None, chunk: int | None = None) -> OdinwDataset:
    """The task's data set, checked for something to ask for and to measure; notes say what the task's YAML does not do.

    chunk: names a caption, the task's by default. Raises GlipExportError, naming the file.
    """
    dataset = OdinwDataset.read(task.annotations, task.images, limit, task.config.task.categories)
    if not dataset.asked:
        raise GlipExportError(f"{task.annotations} has no category to ask for: {'; '.join(dataset.notes)}")
    dataset.check_annotated()
    config = asked_config(task, dataset, chunk)
    prompt_for(dataset, None, config, chunk)
    notes = [*dataset.notes, *prompt_notes(None, config, chunk)]
    if ignored := task.file.without_influence:
        notes.append(f"without influence in a task's YAML, for the model is built before: {', '.join(ignored)}")
    return replace(dataset, notes=tuple(notes))


def asked_config(task: OdinwTask, dataset: OdinwDataset, chunk: int | None = None) -> GlipConfig:
    """The task's configuration, with as many words (CAPTION_PROMPT) as there are categories to ask for.

    As in the original words beyond those are never read, and those of a caption are read again in the next one. Raises
    GlipExportError for fewer than a caption needs.
    """
    config = task.config
    words, wanted = config.task.words, len(dataset.asked)
    if not words:
        return config
    size = names_a_caption(config, chunk)
    needed = min(size, wanted) if size > 0 else wanted
    if len(words) < needed:
        raise GlipExportError(
            f"{task.file.path}: DATASETS.CAPTION_PROMPT has words for {len(words)} categories, but {dataset.path} has "
            f"{wanted}; --no-caption-prompt asks by their names"
        )
    return replace(config, task=replace(config.task, caption_prompt=in_turn(words, needed, wanted)))


def evaluate_odinw(
    detector: Detector | Callable[[], Detector],
    task: OdinwTask,
    dataset: OdinwDataset,
    *,
    batch: int = BATCH,
    chunk: int | None = None,
    journal: Journal | None = None,
    strict: bool = False,
    workers: Workers = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> CocoResult:
    """Detects on every picture and scores what was found; dataset: what `read_dataset` gave for the task.

    detector: an open one of any configuration, or what opens one that goes by `asked_config`. The other arguments, and
    what is raised, are those of `evaluate_coco`.
    """
    config = asked_config(task, dataset, chunk)
    return evaluate_coco(
        detector if callable(detector) else detector.reconfigured(config),
        dataset,
        batch=batch,
        chunk=chunk,
        aspect_groups=task.groups_by_aspect and batch > 1,
        journal=journal,
        strict=strict,
        workers=workers,
        progress=progress,
        config=config,
    )
