"""Flickr30k's evaluation: a Detector over sentences, resumable, or a file of what was found, to recalls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.evaluation.coco import as_annotated
from glip_export.evaluation.entries import ImageId, rising
from glip_export.evaluation.flickr30k.dataset import MOST_PHRASES, FlickrDataset
from glip_export.evaluation.flickr30k.detections_file import write_grounded
from glip_export.evaluation.flickr30k.entities import Truth, named, picture_of, sentence_key
from glip_export.evaluation.flickr30k.grounding import Grounded, boxes_by_phrase
from glip_export.evaluation.flickr30k.recall import Recall, RecallCounter
from glip_export.evaluation.journal import Journal, Log, left_out_of
from glip_export.evaluation.openers import changed
from glip_export.evaluation.pictures import PictureBatch
from glip_export.evaluation.problems import Problem, ProblemList
from glip_export.evaluation.rows import Rows, by_item, joined, rows_of
from glip_export.evaluation.run import Plan, Workers, run
from glip_export.prompt import Prompt
from glip_export.runtime.detector import Detector

A_SENTENCE = 100  # MODEL.ATSS.DETECTIONS_PER_IMG, which GLIP's README leaves as it is


@dataclass(frozen=True)
class FlickrResult:
    """What was found for the sentences, and how good it is."""

    recall: Recall  # of the sentences whose pictures could be read
    found: int  # boxes for them
    pictures: int  # that could be read
    turned: int  # of those, by EXIF
    problems: tuple[Problem, ...]  # of the pictures or the file
    seconds: float  # that detecting took, in this run and those it went on from; 0 for a file
    log: Log | None = None  # of what a detector found
    sentences_left_out: int = 0  # that the file says the run left out

    @property
    def values(self) -> Mapping[str, float | None]:
        """The numbers by the original's names."""
        return self.recall.values

    def write(self, target: Path, dataset: FlickrDataset) -> None:
        """What a detector found, a JSON line a sentence; those of pictures that could not be read have none.

        Sentences that were left out by themselves are said to be.
        """
        write_grounded(target, () if self.log is None else with_left_out(dataset, self.log))


@dataclass(frozen=True)
class SentencesWork:
    """Pictures asked for their sentences: a `Work`. The backbone runs once a picture, the head once a sentence."""

    asked: Mapping[ImageId, tuple[tuple[int, Prompt | None], ...]]  # of each picture: its sentences' places and prompts

    def detect(self, detector: Detector, batch: PictureBatch) -> Rows:
        """Rows of each picture's sentences in turn, boxes in pixels of the annotated size."""
        return joined(part for place in range(len(batch.images)) for part in self._sentences(detector, batch, place))

    def _sentences(self, detector: Detector, batch: PictureBatch, place: int) -> Iterator[Rows]:
        image = batch.images[place]
        asked = [(item, prompt) for item, prompt in self.asked[image.id] if prompt is not None]
        if not asked:
            return
        encoded = detector.encode_images([batch.pictures[place]])
        for item, prompt in asked:
            (found,) = detector.detect_encoded(encoded, prompt)
            yield rows_of(item, as_annotated(found, image), detector.session.name, image.id)


def evaluate_flickr(
    detector: Detector | Callable[[], Detector],
    dataset: FlickrDataset,
    truth: Truth,
    *,
    journal: Journal | None = None,
    strict: bool = False,
    workers: Workers = 1,
    progress: Callable[[int], None] = lambda done: None,
    config: GlipConfig | None = None,
) -> FlickrResult:
    """Detects each sentence's phrases on its picture, every picture alone as in the original, and counts the recalls.

    truth: of the sentences that both the data set and the entities have, see `FlickrDataset.asked`. The other
    arguments are those of `evaluate_coco`. A picture that cannot be read is left out with its sentences. Raises
    GlipExportError where no picture can be read; else what `run` raises.
    """
    if config is None and not callable(detector):
        config = detector.config
    config = None if config is None else flickr_config(config)
    plan = Plan(dataset.path, [dataset.images], 1, lambda _: sentences_work(dataset), dataset.problems)
    opener = changed(detector, flickr_config)
    ran = run(plan, opener, journal, strict=strict, workers=workers, progress=progress, config=config)
    read = set(ran.read)
    left_out = {sentence.key for sentence in dataset.sentences if sentence.image_id not in read}
    counter = RecallCounter(truth, left_out)
    found = 0
    for each in grounded(dataset, ran.log):
        counter.add(each)
        found += sum(map(len, each.boxes))
    return FlickrResult(counter.result(), found, len(read), ran.turned, ran.problems, ran.seconds, ran.log)


def score_grounded(
    dataset: FlickrDataset,
    truth: Truth,
    sentences: Iterable[Grounded],
    problems: ProblemList,
    strict: bool = False,
    left_out: Collection[ImageId] = (),
) -> FlickrResult:
    """Counts the recalls of what was found elsewhere, as the original's evaluator does.

    truth: of all sentences that must be there. A second line of a sentence, and one of a sentence that neither the
    data set nor the truth has, are left out and told. Those that the run left out do not count. problems: what is
    broken in the file, complete once the sentences are read. left_out: pictures whose sentences do not count. Raises
    GlipExportError where a sentence is missing or has other lists than phrases, and where none counts.
    """
    gone = [image for image in dataset.images if image.id in left_out]
    texts = {str(image.id) for image in gone}
    counter = RecallCounter(truth, {key for key in truth if picture_of(key) in texts})
    found = sentences_left_out = 0
    pictures = set()  # that the file has
    for each in sentences:
        key = sentence_key(each.image_id, each.sentence_id)
        if key not in truth and key not in dataset.known:
            problems.add("detections: unknown sentence", f"detections of {named(key)}: there is no such sentence")
        elif not counter.add(each):
            problems.add("detections: sentence used twice", f"detections of {named(key)}: an earlier line has them")
        elif key in truth and picture_of(key) not in texts:
            found += sum(map(len, each.boxes))
            sentences_left_out += each.left_out
        pictures.add(picture_of(key))
        if strict and (known := problems.listed()):
            raise GlipExportError(f"{known[0].text}; without --strict it is left out and counted")
    listed = problems.listed()
    reason = f"; {listed[0].text}" if listed else ""
    if pictures and pictures.isdisjoint(map(picture_of, counter.missing)):
        reason += "; what a run with --limit found is scored with the same --limit"
    recall = counter.result(reason)
    if not recall.sentences:
        raise GlipExportError("there is nothing to score: no sentence has boxes, or the run left out all that do")
    read = len(dataset.images) - len(gone)
    return FlickrResult(recall, found, read, 0, listed, 0.0, sentences_left_out=sentences_left_out)


def flickr_config(config: GlipConfig) -> GlipConfig:
    """The configuration with room for as many phrases as the original has for Flickr30k."""
    most = config.detection.most_names
    room = max(most, MOST_PHRASES) if most > 0 else most
    return replace(config, detection=replace(config.detection, most_names=room))


def flickr_notes(config: GlipConfig) -> tuple[str, ...]:
    """How the bundle differs from what the paper's numbers were measured with."""
    notes = []
    kept = config.detection.detections_per_image
    if kept != A_SENTENCE:
        notes.append(f"the bundle keeps {kept} detections a sentence, GLIP's numbers are of {A_SENTENCE}")
    if config.detection.several_scales:
        notes.append("at several scales (TEST.USE_MULTISCALE), at which the original cannot ground sentences")
    return tuple(notes)


def sentences_work(dataset: FlickrDataset) -> SentencesWork:
    """The work that asks each picture for its sentences."""
    asked = {}
    item = 0
    for image, sentences in zip(dataset.images, dataset.grouped, strict=True):
        asked[image.id] = tuple((item + place, sentence.prompt()) for place, sentence in enumerate(sentences))
        item += len(sentences)
    return SentencesWork(asked)


def with_left_out(dataset: FlickrDataset, log: Log) -> Iterator[Grounded]:
    """The same, and the data set's `left_out` by the ids of a picture's sentences; pictures without others come last.

    Those of pictures that could not be read are none of it.
    """
    waiting: dict[str, list[Grounded]] = {}
    for lacking in sorted(dataset.left_out, key=lambda each: rising(each.sentence_id)):
        waiting.setdefault(str(lacking.image_id), []).append(lacking)
    for image_id in left_out_of(log):
        waiting.pop(str(image_id), None)
    before: ImageId | None = None
    for each in grounded(dataset, log):
        if before is not None and each.image_id != before:
            yield from waiting.pop(str(before), ())
        before = each.image_id
        own = waiting.get(str(before), [])
        while own and rising(own[0].sentence_id) < rising(each.sentence_id):
            yield own.pop(0)
        yield each
    if before is not None:
        yield from waiting.pop(str(before), ())
    for rest in waiting.values():
        yield from rest


def grounded(dataset: FlickrDataset, log: Log) -> Iterator[Grounded]:
    """What a detector found for each sentence of the pictures that could be read, in the data set's order."""
    sentences = dataset.sentences
    left_out = set(left_out_of(log))
    wanted = (item for item, sentence in enumerate(sentences) if sentence.image_id not in left_out)
    for item, rows in by_item(log.blocks(), wanted):
        boxes = boxes_by_phrase(rows["box"], rows["score"], rows["label"], len(sentences[item].spans))
        yield Grounded(sentences[item].image_id, sentences[item].sentence_id, boxes)
