"""A small data set in Flickr30k's form, written to a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PEOPLE = "[/EN#1/people A woman] leads [/EN#2/animals two horses] ."
CAPTION = "A woman leads two horses ."
SPANS = [[[0, 7]], [[14, 24]]]
BOXES = [("1", (10, 10, 60, 90)), ("2", (50, 20, 150, 80)), ("2", (160, 20, 190, 80))]


def xml_of(boxes: Sequence[tuple[str | Sequence[str], tuple[int, int, int, int] | None]]) -> str:
    """An annotation file; a box of None is nobndbox."""
    objects = []
    for names, box in boxes:
        words = "".join(f"<name>{name}</name>" for name in ([names] if isinstance(names, str) else names))
        sides = zip(("xmin", "ymin", "xmax", "ymax"), box or (), strict=False)
        whole = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
        found = f"<bndbox>{whole}</bndbox>" if box else "<nobndbox>1</nobndbox><scene>0</scene>"
        objects.append(f"<object>{words}{found}</object>")
    size = "<size><width>200</width><height>100</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def write_entities(
    folder: Path, sentences: Mapping[str, str] | None = None, boxes: Any = BOXES, subset: str = "test"
) -> Path:
    """The folder: each picture's sentences, and the same boxes for all."""
    sentences = {"100": PEOPLE, "200": PEOPLE} if sentences is None else sentences
    for name in ("Annotations", "Sentences"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / f"{subset}.txt").write_text("".join(f"{picture}\n" for picture in sentences))
    for picture, text in sentences.items():
        (folder / "Sentences" / f"{picture}.txt").write_text(text)
        (folder / "Annotations" / f"{picture}.xml").write_text(xml_of(boxes))
    return folder


def entry(own: int, picture: int | str, sentence: int | str = 0, **others: Any) -> dict[str, Any]:
    """An entry of "images"."""
    return {
        "id": own,
        "file_name": f"{picture}.jpg",
        "height": 100,
        "width": 200,
        "caption": CAPTION,
        "original_img_id": picture,
        "sentence_id": sentence,
        "tokens_positive_eval": SPANS,
        **others,
    }


def write_grounding(path: Path, entries: Sequence[Any], annotated: Sequence[Any] | None = None) -> Path:
    """The annotation file; annotated: image_id of its annotations, by default of every entry."""
    owners = [each["id"] for each in entries] if annotated is None else annotated
    annotations = [{"id": place, "image_id": own, "bbox": [1, 1, 5, 5]} for place, own in enumerate(owners)]
    path.write_text(json.dumps({"images": list(entries), "annotations": annotations, "categories": []}))
    return path
