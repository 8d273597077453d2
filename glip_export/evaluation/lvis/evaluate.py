"""LVIS evaluation: a Detector over a data set, resumable, or a file of detections, to LVIS's numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.evaluation.coco import category_work
from glip_export.evaluation.detections_file import detections_writer
from glip_export.evaluation.journal import Journal, Log
from glip_export.evaluation.lvis.dataset import LvisDataset
from glip_export.evaluation.lvis.scores import MOST_A_CLASS, LvisScores, score_lvis
from glip_export.evaluation.openers import changed
from glip_export.evaluation.pictures import in_groups
from glip_export.evaluation.problems import Problem, ProblemList
from glip_export.evaluation.prompts import prompt_for
from glip_export.evaluation.rows import Found, by_difference
from glip_export.evaluation.run import Plan, Workers, run
from glip_export.runtime.detector import Detector

# GLIP's README for LVIS: TEST.CHUNKED_EVALUATION, TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM, MODEL.ATSS.DETECTIONS_PER_IMG
CHUNK, MOST_NAMES, A_CAPTION = 40, 3000, 300
BATCH = 1  # pictures padded together: the README has as many GPUs as pictures a batch


@dataclass(frozen=True)
class LvisResult:
    """What was found on a data set, and how good it is."""

    scores: LvisScores  # on the pictures that could be read
    found: int  # detections, before any limit
    pictures: int  # that could be read
    turned: int  # of those, by EXIF
    problems: tuple[Problem, ...]  # of the pictures or the file of detections
    seconds: float  # that detecting took, in this run and those it went on from; 0 for a file
    log: Log | None = None  # of what a detector found

    @property
    def values(self) -> Mapping[str, float | None]:
        """LVIS's numbers by the original's names."""
        return self.scores.values

    def write(self, target: Path, dataset: LvisDataset) -> None:
        """What a detector found, as a file in COCO's results format, boxes as LVIS has them."""
        with detections_writer(target, [image.id for image in dataset.images], dataset.category_ids) as add:
            for found in map(by_difference, () if self.log is None else self.log.blocks()):
                add(found)


def evaluate_lvis(
    detector: Detector | Callable[[], Detector],
    dataset: LvisDataset,
    *,
    normal: bool = False,
    most_a_category: int = MOST_A_CLASS,
    batch: int = BATCH,
    chunk: int = CHUNK,
    journal: Journal | None = None,
    strict: bool = False,
    workers: Workers = 1,
    progress: Callable[[int], None] = lambda done: None,
    config: GlipConfig | None = None,
) -> LvisResult:
    """Detects on every picture and scores what was found; the backbone runs once a picture, whatever the categories.

    normal, most_a_category: see `score_lvis`. chunk: names a caption; each caption gives as many detections as the
    bundle keeps, 300 in the original. The other arguments are those of `evaluate_coco`. Raises GlipExportError where no
    picture can be read; else what `run` raises.
    """
    if config is None and not callable(detector):
        config = detector.config
    config = None if config is None else lvis_config(config)
    plan = Plan(
        dataset.path,
        in_groups(dataset.images, aspect_groups=False),
        batch,
        lambda config: category_work(dataset, prompt_for(dataset, None, config, chunk), chunk),
        dataset.problems,
    )
    opener = changed(detector, lvis_config)
    ran = run(plan, opener, journal, strict=strict, workers=workers, progress=progress, config=config)
    read = set(ran.read)
    left_out = {item for item, image in enumerate(dataset.images) if image.id not in read}
    scores, found = _scored(dataset, map(by_difference, ran.log.blocks()), normal, most_a_category, left_out)
    return LvisResult(scores, found, len(read), ran.turned, ran.problems, ran.seconds, ran.log)


def score_found(
    dataset: LvisDataset,
    blocks: Iterable[Found],
    problems: ProblemList,
    *,
    normal: bool = False,
    most_a_category: int = MOST_A_CLASS,
) -> LvisResult:
    """Scores detections that were made elsewhere, on all of the data set's pictures.

    problems: what is broken in them, complete once the blocks are read. normal, most_a_category: see `score_lvis`.
    """
    scores, found = _scored(dataset, blocks, normal, most_a_category, ())
    return LvisResult(scores, found, len(dataset.images), 0, problems.listed(), 0.0)


def lvis_config(config: GlipConfig) -> GlipConfig:
    """The configuration with room for LVIS's names in a prompt, as the original is told by command line.

    Raises GlipExportError for one that puts other categories in the place of the file's.
    """
    if config.task.categories:
        raise GlipExportError(
            "the bundle's DATASETS.OVERRIDE_CATEGORY has other categories than LVIS, without their frequencies: export "
            "a bundle without USE_OVERRIDE_CATEGORY"
        )
    most = config.detection.most_names
    return replace(config, detection=replace(config.detection, most_names=max(most, MOST_NAMES) if most > 0 else most))


def lvis_notes(config: GlipConfig) -> tuple[str, ...]:
    """How the bundle differs from what the paper's numbers were measured with."""
    kept = config.detection.detections_per_image
    if kept >= A_CAPTION:
        return ()
    return (
        f"the bundle keeps {kept} detections a caption, GLIP's numbers are of {A_CAPTION}: export it with "
        f"MODEL.ATSS.DETECTIONS_PER_IMG {A_CAPTION} to compare",
    )


def _scored(
    dataset: LvisDataset, blocks: Iterable[Found], normal: bool, most: int, left_out: Collection[int]
) -> tuple[LvisScores, int]:
    """The scores, and how many detections there were."""
    total = 0

    def counted() -> Iterator[Found]:
        nonlocal total
        for block in blocks:
            total += len(block.item)
            yield block

    scores = score_lvis(dataset, counted(), normal=normal, most_a_class=most, left_out=left_out)
    return scores, total
