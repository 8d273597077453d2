"""The grounding annotations of Flickr30k: a caption and its phrases for each sentence of a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError, PromptError
from glip_export.evaluation.dataset import read_json
from glip_export.evaluation.entries import (
    OUTSIDE,
    CocoImage,
    ImageId,
    entry_fields,
    identifier,
    is_inside,
    parse_size,
    rising,
)
from glip_export.evaluation.flickr30k.entities import Entities, Truth, named, picture_of, sentence_key
from glip_export.evaluation.flickr30k.grounding import Grounded
from glip_export.evaluation.problems import BROKEN, TWICE, BrokenEntryError, Problem, short
from glip_export.prompt import Prompt, Span

MOST_PHRASES = 100  # GLIP's README for Flickr30k: TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM
SENTENCE = "sentence"  # what problems' kinds begin with


@dataclass(frozen=True)
class Sentence:
    """A sentence and the characters of each phrase that is asked for."""

    image_id: ImageId
    sentence_id: ImageId
    caption: str
    spans: tuple[tuple[Span, ...], ...]

    @property
    def key(self) -> str:
        """See `sentence_key`."""
        return sentence_key(self.image_id, self.sentence_id)

    def prompt(self) -> Prompt | None:
        """What is asked; None where no phrase is."""
        return Prompt.from_spans(self.caption, self.spans, wordless=True) if self.spans else None


@dataclass(frozen=True)
class FlickrDataset:
    """Pictures, and the sentences of each; broken entries are left out."""

    path: Path  # the annotation file
    sha256: str  # of its bytes
    folder: Path  # of the pictures
    images: tuple[CocoImage, ...]  # by the rising id of their first sentence
    grouped: tuple[tuple[Sentence, ...], ...]  # of each picture, by rising id
    problems: tuple[Problem, ...]  # of the whole file, whatever the limit
    known: Mapping[str, tuple[ImageId, ImageId]]  # all sentences that the file names, by key: picture and sentence
    picture_ids: frozenset[ImageId]  # of all pictures that the file has sentences of, whatever the limit
    limited: bool = False  # whether it has more pictures
    notes: tuple[str, ...] = ()
    left_out: tuple[Grounded, ...] = ()  # sentences that should be scored and cannot be asked for, see `with_left_out`

    @classmethod
    def read(cls, annotations: Path | str, images: Path | str | None, limit: int | None = None) -> FlickrDataset:
        """Reads a grounding_*.json or final_flickr_*.json; limit: the first so many pictures.

        images: the folder that its file names are in; may be None where no picture is opened. Sentences without any
        annotation are left out, as by the original's loader. What is broken (a span out of the caption, a path out of
        the folder, an id or a sentence given twice ...) is in `problems` and left out too. Raises GlipExportError for
        a file that is no such one or names nothing to evaluate, and for a folder that is none.
        """
        path = Path(annotations)
        folder = path.parent if images is None else Path(images)
        if not folder.is_dir():
            raise GlipExportError(f"the pictures' folder {folder} does not exist or is no folder")
        data, content = read_json(path, ("images", "annotations"))
        problems: list[Problem] = []
        entries = _parse_sentences(content["images"], folder, problems)
        ids, known = _mentioned(content["images"])
        annotated = _annotated(content["annotations"], ids, problems)
        pictures: dict[ImageId, tuple[CocoImage, list[Sentence]]] = {}
        for own in sorted(entries.keys() & annotated, key=rising):
            image, sentence = entries[own]
            pictures.setdefault(image.id, (image, []))[1].append(sentence)
        if not pictures:
            reason = f": {problems[0].text}" if problems else ""
            raise GlipExportError(f"{path} has no sentence to evaluate{reason}")
        chosen = list(pictures.values())[:limit]
        return cls(
            path=path,
            sha256=hashlib.sha256(data).hexdigest(),
            folder=folder,
            images=tuple(image for image, _ in chosen),
            grouped=tuple(tuple(sentences) for _, sentences in chosen),
            problems=tuple(problems),
            known=known,
            picture_ids=frozenset(image.id for image, _ in entries.values()),
            limited=len(chosen) < len(pictures),
        )

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        """All, picture by picture: an item is a place here."""
        return tuple(sentence for sentences in self.grouped for sentence in sentences)

    def fitting(self, config: GlipConfig) -> FlickrDataset:
        """Without the sentences that are too long for the model's text encoder; each is a problem."""
        problems: list[Problem] = []

        def fits(sentence: Sentence) -> bool:
            try:
                if (prompt := sentence.prompt()) is not None:
                    prompt.chunks(config.text.max_query_len)
            except PromptError as error:
                problems.append(Problem(f"{SENTENCE}: too long", f"{named(sentence.key)}: {error}"))
                return False
            return True

        grouped = tuple(tuple(filter(fits, sentences)) for sentences in self.grouped)
        return replace(self, grouped=grouped, problems=(*self.problems, *problems))

    def of_limit(self, truth: Truth) -> Truth:
        """What is scored of the pictures that a limit leaves."""
        if not self.limited:
            return truth
        chosen = {str(image.id) for image in self.images}
        return {key: targets for key, targets in truth.items() if picture_of(key) in chosen}

    def with_left_out(self, entities: Entities) -> FlickrDataset:
        """With the sentences in `left_out` that the entities have and this has no usable entry of."""
        asked = {sentence.key for sentence in self.sentences}
        lacking = [key for key in self.of_limit(entities.truth) if key not in asked]
        ids = [self.known.get(key, (picture_of(key), key.rsplit("_", 1)[1])) for key in lacking]
        return replace(self, left_out=tuple(Grounded(*each, (), left_out=True) for each in ids))

    def asked(self, entities: Entities) -> tuple[Truth, tuple[Problem, ...]]:
        """The sentences of the entities that the file has too, and a problem for each that it should have.

        Those lack whose entries are broken. Raises GlipExportError where others lack or a sentence asks for another
        number of phrases than have boxes: the files do not belong together, and what is found could not be scored.
        """
        what = f"{self.path} and subset {entities.subset} of {entities.folder} do not belong together"
        asked = {sentence.key: sentence for sentence in self.sentences}
        expected = self.of_limit(entities.truth)
        truth = {key: targets for key, targets in expected.items() if key in asked}
        if not truth:
            raise GlipExportError(f"{what}: they have no sentence in common; see --subset")
        for key, targets in truth.items():
            if len(asked[key].spans) != len(targets):
                counts = f"asks for {len(asked[key].spans)} phrase(s), but {len(targets)} have boxes"
                raise GlipExportError(f"{what}: {named(key)} {counts}")
        lacking = [named(key) for key in expected if key not in asked]
        if lacking and not any(problem.kind.startswith(SENTENCE) for problem in self.problems):
            raise GlipExportError(f"{what}: {len(lacking)} sentence(s) are not annotated, the first is {lacking[0]}")
        return truth, tuple(Problem(f"{SENTENCE}: not scored", f"{key} has no usable entry") for key in lacking)


def _parse_sentences(
    entries: Sequence[object], folder: Path, problems: list[Problem]
) -> dict[ImageId, tuple[CocoImage, Sentence]]:
    """The usable entries of "images", by their own ids; those of one picture have the same CocoImage."""
    found: dict[ImageId, tuple[CocoImage, Sentence]] = {}
    pictures: dict[ImageId, CocoImage] = {}
    keys: set[str] = set()
    for number, entry in enumerate(entries, start=1):
        try:
            own, image, sentence = _parse_sentence(entry, folder)
            if own in found:
                raise BrokenEntryError(TWICE, f"id {short(own)} is an earlier one's")
            if sentence.key in keys:
                raise BrokenEntryError(TWICE, f"{named(sentence.key)} is an earlier entry's")
            if pictures.setdefault(image.id, image) != image:
                raise BrokenEntryError(BROKEN, f"picture {image.id} has another file or size in an earlier entry")
        except BrokenEntryError as error:
            problems.append(Problem(f"{SENTENCE}: {error.kind}", f"{SENTENCE} entry {number}: {error}"))
        else:
            found[own] = image, sentence
            keys.add(sentence.key)
    return found


def _parse_sentence(entry: object, folder: Path) -> tuple[ImageId, CocoImage, Sentence]:
    fields = entry_fields(entry)
    file_name, caption = fields.get("file_name"), fields.get("caption")
    own, picture, number = (identifier(fields, key) for key in ("id", "original_img_id", "sentence_id"))
    if not isinstance(file_name, str) or not file_name:
        raise BrokenEntryError(BROKEN, f"file_name is {short(file_name)}, not a text")
    if not is_inside(file_name):
        raise BrokenEntryError(OUTSIDE, f"file_name {short(file_name)} leaves the folder of the pictures")
    if not isinstance(caption, str):
        raise BrokenEntryError(BROKEN, f"caption is {short(caption)}, not a text")
    image = CocoImage(picture, file_name, folder / file_name, parse_size(fields))
    sentence = Sentence(picture, number, caption, _parse_phrases(fields, caption))
    try:
        sentence.prompt()
    except PromptError as error:
        raise BrokenEntryError(BROKEN, str(error)) from error
    return own, image, sentence


def _parse_phrases(fields: dict[str, Any], caption: str) -> tuple[tuple[Span, ...], ...]:
    given = fields.get("tokens_positive_eval")
    if not isinstance(given, list) or not all(isinstance(phrase, list) for phrase in given):
        raise BrokenEntryError(
            BROKEN, f"tokens_positive_eval is {short(given)}, not a list with the spans of each phrase"
        )
    if len(given) > MOST_PHRASES:
        raise BrokenEntryError(BROKEN, f"it asks for {len(given)} phrases; at most {MOST_PHRASES} are possible")
    return tuple(tuple(_parse_span(span, caption) for span in phrase) for phrase in given)


def _parse_span(span: object, caption: str) -> Span:
    if isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span):
        begin, end = span
        if 0 <= begin < end <= len(caption):
            return begin, end
    raise BrokenEntryError(
        "span outside the caption", f"{short(span)} is no [begin, end) of the {len(caption)} characters of its caption"
    )


def _annotated(entries: Sequence[object], sentences: set[ImageId], problems: list[Problem]) -> set[ImageId]:
    """The ids of "images" that any annotation is of. No more of an annotation is read: boxes are the entities'."""
    found: set[ImageId] = set()
    for number, entry in enumerate(entries, start=1):
        try:
            own = identifier(entry_fields(entry), "image_id")
            if own not in sentences:
                raise BrokenEntryError("unknown sentence", f"image_id {short(own)} is of no entry of images")
        except BrokenEntryError as error:
            problems.append(Problem(f"annotation: {error.kind}", f"annotation entry {number}: {error}"))
        else:
            found.add(own)
    return found


def _mentioned(entries: Sequence[object]) -> tuple[set[ImageId], dict[str, tuple[ImageId, ImageId]]]:
    """The ids and the sentences that entries of "images" have, broken ones too."""
    ids: set[ImageId] = set()
    keys: dict[str, tuple[ImageId, ImageId]] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        own, picture, sentence = (entry.get(key) for key in ("id", "original_img_id", "sentence_id"))
        if isinstance(own, (int, str)):
            ids.add(own)
        if isinstance(picture, (int, str)) and isinstance(sentence, (int, str)):
            keys.setdefault(sentence_key(picture, sentence), (picture, sentence))
    return ids, keys
