"""COCO evaluation: a Detector over a data set, resumable, and the average precision of what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from glip_export.config import GlipConfig
from glip_export.evaluation.average_precision import Scores, load_pycocotools, score
from glip_export.evaluation.dataset import CocoDataset
from glip_export.evaluation.entries import CocoImage, ImageId
from glip_export.evaluation.journal import Journal
from glip_export.evaluation.pictures import PictureBatch, in_groups
from glip_export.evaluation.problems import Problem, ProblemList
from glip_export.evaluation.prompts import prompt_for
from glip_export.evaluation.rows import Found, Rows, joined, rows_of, with_one_added
from glip_export.evaluation.run import Plan, Workers, run
from glip_export.names import Name
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.runtime.detector import Detector

BATCH = 3  # pictures padded together


@dataclass(frozen=True)
class CocoResult:
    """What a detector found on a data set, and how good it is."""

    scores: Scores  # on the pictures that could be read
    blocks: tuple[Found, ...]  # what was found
    image_ids: tuple[ImageId, ...]  # by the blocks' items
    category_ids: tuple[int, ...]  # by their labels
    pictures: int  # that could be read
    turned: int  # of those, by EXIF
    problems: tuple[Problem, ...]  # of the pictures; the annotation file's are the data set's
    seconds: float  # that detecting took, in this run and those it went on from

    @property
    def values(self) -> Mapping[str, float | None]:
        """COCO's numbers by their names."""
        return self.scores.values

    @property
    def found(self) -> int:
        """How many detections there are."""
        return sum(len(block.item) for block in self.blocks)

    @property
    def detections(self) -> list[dict[str, Any]]:
        """COCO's results form: image_id, category_id, bbox xywh with the +1, score; made anew each time."""
        return list(_results(self.blocks, self.image_ids, self.category_ids))


@dataclass(frozen=True)
class CategoryWork:
    """Pictures asked for a data set's categories: the `Work` of COCO, ODinW and LVIS."""

    prompt: Prompt
    chunk: int | None  # names a caption; None takes the configuration's
    places: Mapping[ImageId, int]  # of the pictures in the data set
    labels: tuple[int, ...]  # of the prompt's names: their categories' places

    def detect(self, detector: Detector, batch: PictureBatch) -> Rows:
        """Rows of each picture in turn, boxes in pixels of the annotated size."""
        found = detector.detect(batch.pictures, self.prompt, chunk=self.chunk)
        return joined(
            rows_of(self.places[image.id], self._placed(detections, image), detector.session.name, image.id)
            for image, detections in zip(batch.images, found, strict=True)
        )

    def _placed(self, found: Detections, image: CocoImage) -> Detections:
        """With labels that are categories' places, and boxes as annotated."""
        return replace(as_annotated(found, image), labels=np.array(self.labels, np.int64)[found.labels])


def evaluate_coco(
    detector: Detector | Callable[[], Detector],
    dataset: CocoDataset,
    names: Sequence[Name] | None = None,
    *,
    batch: int = BATCH,
    chunk: int | None = None,
    aspect_groups: bool = False,
    journal: Journal | None = None,
    strict: bool = False,
    workers: Workers = 1,
    progress: Callable[[int], None] = lambda done: None,
    config: GlipConfig | None = None,
) -> CocoResult:
    """Detects on every picture and scores what was found.

    detector: an open one, or what opens it, not called where the journal holds everything. names: to ask for, as many
    as categories and in their order; by default their own. batch: pictures padded together, in order of their ids.
    chunk, aspect_groups: see `Detector.detect` and `in_groups`. journal: results are added to it batch by batch, and
    what it holds is not computed again. strict: the first broken picture or annotation is an error. workers:
    processes, each with a detector of its own, or a cluster; see `run`. progress: told the number of pictures done,
    first what the journal held. config: the bundle's, so that what is asked for is checked before a detector is opened.

    What is asked for is what the bundle's configuration says (`prompt_for`), the categories' names by default.
    A picture that cannot be read is left out, with its objects, before batches are made. As in the original, pictures
    are taken as stored, whatever EXIF says (but see `load_as_annotated`), and boxes are scaled to the picture's
    annotated size where its file has another. Raises GlipExportError if there are not as many
    names as categories, if no picture can be read, and without pycocotools; else what `run` raises.
    """
    load_pycocotools()  # told before hours of detecting, not after
    if config is None and not callable(detector):
        config = detector.config
    if config is not None:
        prompt_for(dataset, names, config, chunk)
    plan = Plan(
        dataset.path,
        in_groups(dataset.images, aspect_groups),
        batch,
        lambda config: category_work(dataset, prompt_for(dataset, names, config, chunk), chunk),
        dataset.problems,
    )
    ran = run(plan, detector, journal, strict=strict, workers=workers, progress=progress, config=config)
    blocks = map(with_one_added, ran.log.blocks())
    return _scored(dataset, blocks, ran.read, ran.turned, lambda: ran.problems, ran.seconds)


def score_coco(dataset: CocoDataset, blocks: Iterable[Found], problems: ProblemList) -> CocoResult:
    """Scores detections that were made elsewhere, on all of the data set's pictures.

    problems: what is broken in them, complete once the blocks are read. Raises GlipExportError without pycocotools.
    """
    load_pycocotools()
    return _scored(dataset, blocks, [image.id for image in dataset.images], 0, problems.listed, 0.0)


def category_work(dataset: CocoDataset, prompt: Prompt, chunk: int | None) -> CategoryWork:
    """The work that asks for a data set's categories in their order."""
    places = {category_id: place for place, category_id in enumerate(dataset.category_ids)}
    labels = tuple(places[category.id] for category in dataset.asked)
    return CategoryWork(prompt, chunk, {image.id: place for place, image in enumerate(dataset.images)}, labels)


def as_annotated(detections: Detections, image: CocoImage) -> Detections:
    """With boxes in pixels of the size that the annotations are in."""
    if image.size is None or image.size == detections.image_size:
        return detections
    y, x = (given / real for given, real in zip(image.size, detections.image_size, strict=True))
    return replace(detections, boxes=detections.boxes * np.array([x, y, x, y], np.float32), image_size=image.size)


def _scored(
    dataset: CocoDataset,
    blocks: Iterable[Found],
    read: Sequence[ImageId],
    turned: int,
    problems: Callable[[], tuple[Problem, ...]],  # once the blocks are read
    seconds: float,
) -> CocoResult:
    kept = tuple(blocks)
    image_ids = tuple(image.id for image in dataset.images)
    scores = score(dataset, _results(kept, image_ids, dataset.category_ids), read)
    return CocoResult(scores, kept, image_ids, dataset.category_ids, len(read), turned, problems(), seconds)


def _results(
    blocks: Iterable[Found], image_ids: Sequence[ImageId], category_ids: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """COCO's results form."""
    for found in blocks:
        for item, label, value, box in zip(*(values.tolist() for values in found), strict=True):
            yield {
                "image_id": image_ids[item],
                "category_id": category_ids[label],
                "bbox": box,
                "score": value,
            }
