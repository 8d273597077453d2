"""The demo model's scenes as Flickr30k Entities comes: sentences with marked phrases, XML, and the grounding JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FIRST_PICTURE = 9000000000  # Flickr30k's pictures are called by numbers of ten digits
SENTENCES = 2  # a picture, of phrases that have boxes
SCENE = 99  # the phrase id of what has none
TYPES = {
    "animals": "dog cat horse rabbit elephant bird owl fish turtle butterfly crab frog",
    "vehicles": "car bus bicycle airplane boat rocket",
    "clothing/other": "hat shirt",
}


@dataclass
class Sentence:
    """A sentence as it grows: with the phrases marked, plain, and the spans of those that have boxes."""

    marked: str = ""
    plain: str = ""
    spans: list[tuple[int, int]] = field(default_factory=list)
    boxes: list[list[list[float]]] = field(default_factory=list)  # of each span, xywh

    def say(self, words: str) -> None:
        """Words of no phrase."""
        self.marked += words
        self.plain += words

    def phrase(self, number: int, kind: str, words: str, boxes: Sequence[list[float]] = ()) -> None:
        """A phrase of that id and type; boxes: where it is, if anywhere."""
        if boxes:
            self.spans.append((len(self.plain), len(self.plain) + len(words)))
            self.boxes.append(list(boxes))
        self.marked += f"[/EN#{number}/{kind} {words}]"
        self.plain += words


def flickr_form(scenes: Path, target: Path) -> tuple[Path, Path, Path]:
    """Writes target/{images,entities,grounding_test.json}, and returns them in the order images, JSON, entities.

    scenes: the folder that `write_scenes` wrote. Every picture has a sentence of its kinds and one of their colours,
    with phrases of one box and of several; every fourth has one more, without a box, which the JSON lists all the same.
    """
    content = json.loads((scenes / "annotations.json").read_text())
    images, entities = target / "images", target / "entities"
    for folder in (images, entities / "Sentences", entities / "Annotations"):
        folder.mkdir(parents=True)
    names: list[str] = []
    entries: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for place, image in enumerate(content["images"]):
        name = str(FIRST_PICTURE + 7 * place)
        kinds: dict[str, list[dict[str, Any]]] = {}
        for entry in content["annotations"]:
            if entry["image_id"] == image["id"]:
                kinds.setdefault(entry["kind"], []).append(entry)
        names.append(name)
        shutil.copyfile(scenes / "images" / image["file_name"], images / f"{name}.jpg")
        sentences = list(_sentences(kinds, place))
        (entities / "Sentences" / f"{name}.txt").write_text("".join(f"{each.marked}\n" for each in sentences))
        (entities / "Annotations" / f"{name}.xml").write_text(_xml(name, image, kinds))
        for number, sentence in enumerate(sentences):
            entries.append(_entry(len(entries), name, image, number, sentence))
            objects += _objects(len(objects), entries[-1]["id"], sentence)
    (entities / "test.txt").write_text("".join(f"{name}\n" for name in names))
    grounding = target / "grounding_test.json"
    category = {"supercategory": "object", "id": 1, "name": "object"}
    grounding.write_text(json.dumps({"images": entries, "annotations": objects, "categories": [category]}))
    return images, grounding, entities


def _sentences(kinds: dict[str, list[dict[str, Any]]], place: int) -> Iterator[Sentence]:
    numbers = {kind: number for number, kind in enumerate(kinds, start=1)}
    for turn in range(SENTENCES):
        sentence = Sentence()
        for number, kind in enumerate(list(kinds)[:: -1 if turn else 1]):
            sentence.say(" and " if number else "Here is " if turn else "")
            words = _words(kind, kinds[kind], coloured=bool(turn))
            sentence.phrase(numbers[kind], _type(kind), words, [each["bbox"] for each in kinds[kind]])
        sentence.say(" before ")
        sentence.phrase(SCENE, "scene", "a wide view")
        sentence.say(" .")
        yield sentence
    if place % 4 == 3:
        nothing = Sentence()
        nothing.say("Nothing else is in ")
        nothing.phrase(SCENE, "scene", "the picture")
        nothing.say(" .")
        yield nothing


def _words(kind: str, found: Sequence[dict[str, Any]], coloured: bool) -> str:
    colours = {each["colour"] for each in found}
    colour = colours.pop() if coloured and len(colours) == 1 else ""
    return " ".join(filter(None, ("a" if len(found) == 1 else "every", colour, kind)))


def _type(kind: str) -> str:
    return next((name for name, kinds in TYPES.items() if kind in kinds.split()), "other")


def _xml(name: str, image: dict[str, Any], kinds: dict[str, list[dict[str, Any]]]) -> str:
    size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
    lines = ["<annotation>", f"<filename>{name}.jpg</filename>", size]
    for number, found in enumerate(kinds.values(), start=1):
        for x, y, width, height in (map(int, each["bbox"]) for each in found):
            corners = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax>"
            lines.append(f"<object><name>{number}</name><bndbox>{corners}</bndbox></object>")
    lines.append(f"<object><name>{SCENE}</name><scene>1</scene><nobndbox>1</nobndbox></object>")
    return "\n".join([*lines, "</annotation>"]) + "\n"


def _entry(own: int, name: str, image: dict[str, Any], number: int, sentence: Sentence) -> dict[str, Any]:
    return {
        **{"id": own, "file_name": f"{name}.jpg", "width": image["width"], "height": image["height"]},
        **{"caption": sentence.plain, "dataset_name": "flickr", "original_img_id": int(name), "sentence_id": number},
        **{"tokens_positive_eval": [[span] for span in sentence.spans], "tokens_negative": [[0, len(sentence.plain)]]},
    }


def _objects(first: int, entry: int, sentence: Sentence) -> list[dict[str, Any]]:
    found = [(span, box) for span, boxes in zip(sentence.spans, sentence.boxes, strict=True) for box in boxes]
    return [
        {
            **{"id": own, "image_id": entry, "category_id": 1, "iscrowd": 0},
            **{"bbox": box, "area": box[2] * box[3], "tokens_positive": [span]},
        }
        for own, (span, box) in enumerate(found, start=first)
    ]
