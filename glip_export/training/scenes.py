"""Scenes: pictures composed of icons on backgrounds, with boxes, written as a COCO data set."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from glip_export.bundle.files import atomic_write_text
from glip_export.processes import end_with_parent
from glip_export.results.pictures import write_picture
from glip_export.training.backgrounds import background
from glip_export.training.icons import icon
from glip_export.training.vocabulary import KINDS, pick, seen_colours, seen_phrases, unseen_phrases

SIZES = ((320, 320), (320, 400), (400, 320), (320, 320))  # h, w in pixels
MOSAIC = 256  # pixels a side
SIDES = (20.0, 300.0)  # an object's longer side, pixels
MOST_COVERED = 0.45  # of an object, by a later one
NATURAL = 0.35  # share of kinds that keep their own colours in a scene


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene; box as x, y, width, height in pixels, colour "" for the icon's own."""

    kind: str
    colour: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """A picture and its objects, in the order they were drawn."""

    picture: Image.Image
    objects: tuple[SceneObject, ...]


Cast = Sequence[tuple[str, str]]  # (colour, kind) that a scene draws from


def training_cast(rng: np.random.Generator) -> Cast:
    """A few kinds, each either in its own colours or in colours that training may show."""
    cast = []
    for index in rng.permutation(len(KINDS))[: int(rng.integers(2, 7))]:
        kind = list(KINDS)[index]
        natural = rng.random() < NATURAL
        cast.append(("", kind) if natural else (pick(rng, seen_colours(kind)), kind))
        if not natural and rng.random() < 0.6:
            cast.append((pick(rng, seen_colours(kind)), kind))
    return cast


def phrase_cast(phrases: Cast, rng: np.random.Generator) -> Cast:
    """Some of the phrases, and for each what it is mistaken for: the kind in another colour, another kind in its."""
    cast = []
    for index in rng.permutation(len(phrases))[: int(rng.integers(2, 5))]:
        colour, kind = phrases[index]
        cast.append((colour, kind))
        cast.append((pick(rng, seen_colours(kind)), kind))
        other = pick(rng, [name for name in KINDS if name != kind and colour in seen_colours(name)])
        cast.append((colour, other))
    return cast


def compose(rng: np.random.Generator, cast: Cast) -> Scene:
    """A scene of 3 to 10 objects of the cast, the first of them at least once if there is room."""
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    canvas = background(rng, height, width)
    objects: list[SceneObject] = []
    for number in range(int(rng.integers(3, 11))):
        colour, kind = cast[number] if number < len(cast) and rng.random() < 0.7 else cast[int(rng.integers(len(cast)))]
        sprite = _sprite(rng, kind, colour, min(height, width))
        box = _place(rng, sprite.size, (width, height), [item.box for item in objects])
        if box is not None:
            canvas.paste(sprite, box[:2], sprite)
            objects.append(SceneObject(kind, colour, _clipped(box, width, height)))
    return Scene(_finish(rng, canvas), tuple(objects))


def mosaic(rng: np.random.Generator) -> Scene:
    """A picture full of objects of every kind: four quarters, each of 1, 4 or 16 cells with an object in each.

    It shows thirty objects where a scene shows six, which is what learning to tell them apart needs (`pretrain`).
    """
    canvas = background(rng, MOSAIC, MOSAIC)
    objects = []
    for quarter in range(4):
        cells = int(rng.choice((1, 2, 4)))  # a side
        cell = MOSAIC // 2 // cells
        for place in range(cells * cells):
            kind = pick(rng, list(KINDS))
            colour = "" if rng.random() < NATURAL else pick(rng, seen_colours(kind))
            sprite = _sprite(rng, kind, colour, cell, 0.55 * cell)
            width, height = sprite.size
            x = quarter % 2 * MOSAIC // 2 + place % cells * cell + int(rng.integers(max(1, cell - width)))
            y = quarter // 2 * MOSAIC // 2 + place // cells * cell + int(rng.integers(max(1, cell - height)))
            canvas.paste(sprite, (x, y), sprite)
            objects.append(SceneObject(kind, colour, _clipped((x, y, width, height), MOSAIC, MOSAIC)))
    return Scene(_finish(rng, canvas), tuple(objects))


def _sprite(
    rng: np.random.Generator, kind: str, colour: str, shorter_side: int, smallest: float = SIDES[0]
) -> Image.Image:
    image = icon(pick(rng, KINDS[kind]), colour)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    low, high = smallest, min(SIDES[1], 0.94 * shorter_side)
    side = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    stretch = float(np.exp(rng.uniform(-0.15, 0.15)))
    scale = side / max(image.width * stretch, image.height / stretch)
    image = image.resize(
        (max(3, round(image.width * scale * stretch)), max(3, round(image.height * scale / stretch))),
        Image.Resampling.LANCZOS,
    )
    image = image.rotate(float(rng.normal(0, 8)), Image.Resampling.BICUBIC, expand=True)
    return image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 40)).getbbox())


def _place(
    rng: np.random.Generator, size: tuple[int, int], canvas: tuple[int, int], boxes: Sequence[tuple[float, ...]]
) -> tuple[int, int, int, int] | None:
    """Where an object goes without covering another one too much, x, y, width, height; None if nowhere was found.

    A tenth of it at most stands over the picture's edge.
    """
    for _ in range(20):
        x, y = (
            int(rng.integers(-side // 10, max(1 - side // 10, room - side + side // 10 + 1)))
            for side, room in zip(size, canvas, strict=True)
        )
        if all(_covered((x, y, *size), box) <= MOST_COVERED for box in boxes):
            return x, y, *size
    return None


def _covered(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The larger share of either box that lies in the other one."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return max(0.0, width) * max(0.0, height) / min(box[2] * box[3], other[2] * other[3])


def _clipped(box: tuple[int, int, int, int], width: int, height: int) -> tuple[float, float, float, float]:
    x1, y1 = max(box[0], 0), max(box[1], 0)
    x2, y2 = min(box[0] + box[2], width), min(box[1] + box[3], height)
    return float(x1), float(y1), float(x2 - x1), float(y2 - y1)


def _finish(rng: np.random.Generator, canvas: Image.Image) -> Image.Image:
    """The camera's part: brightness, contrast, blur, noise."""
    canvas = ImageEnhance.Brightness(canvas).enhance(float(rng.uniform(0.8, 1.15)))
    canvas = ImageEnhance.Contrast(canvas).enhance(float(rng.uniform(0.8, 1.15)))
    if rng.random() < 0.3:
        canvas = canvas.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
    noise = rng.normal(0, rng.uniform(0, 8), (canvas.height, canvas.width, 3))
    return Image.fromarray((np.asarray(canvas) + noise).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class SceneSet:
    """A data set to write: its categories, how its scenes are composed, and its own seed."""

    name: str
    seed: int
    categories: tuple[str, ...]
    compose: Callable[[np.random.Generator], Scene]
    by_phrase: bool = False  # categories are "colour kind", and other objects have no annotation

    def category(self, item: SceneObject) -> str:
        """The category of an object."""
        return f"{item.colour} {item.kind}" if self.by_phrase else item.kind


def scene_sets() -> dict[str, SceneSet]:
    """train, val and mosaics by kind; seen_phrases and unseen_phrases by colour and kind.

    No picture of train and mosaics shows an unseen phrase.
    """
    kinds = tuple(KINDS)
    sets = [SceneSet(name, seed, kinds, partial(_scene, training_cast)) for seed, name in enumerate(("train", "val"))]
    sets.append(SceneSet("mosaics", 4, kinds, mosaic))
    for seed, (name, phrases) in enumerate(
        (("seen_phrases", seen_phrases()), ("unseen_phrases", unseen_phrases())), start=2
    ):
        categories = tuple(f"{colour} {kind}" for colour, kind in phrases)
        sets.append(SceneSet(name, seed, categories, partial(_scene, partial(phrase_cast, phrases)), by_phrase=True))
    return {scene_set.name: scene_set for scene_set in sets}


def scene(scene_set: SceneSet, index: int) -> Scene:
    """The index-th scene of a set: the same on every machine and in any order."""
    rng = np.random.default_rng((scene_set.seed, index))
    return scene_set.compose(rng)


def _scene(cast: Callable[[np.random.Generator], Cast], rng: np.random.Generator) -> Scene:
    return compose(rng, cast(rng))


def write_scenes(scene_set: SceneSet, count: int, folder: Path, workers: int = 1) -> Path:
    """Writes `count` scenes as folder/images/*.jpg and folder/annotations.json, and returns the latter.

    Annotations are COCO's, with "kind" and "colour" beside them; "objects" lists those without a category too.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    draw = partial(_write_scene, scene_set.name, folder)
    if workers > 1:
        with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent, (os.getpid(),)) as pool:
            drawn = list(pool.map(draw, range(count), chunksize=32))
    else:
        drawn = [draw(index) for index in range(count)]
    path = folder / "annotations.json"
    atomic_write_text(path, json.dumps(_coco(scene_set, drawn)))
    return path


def _write_scene(name: str, folder: Path, index: int) -> tuple[int, int, tuple[SceneObject, ...]]:
    drawn = scene(scene_sets()[name], index)
    write_picture(folder / "images" / f"{index:06d}.jpg", drawn.picture, "JPEG", lasting=False, quality=92)
    return drawn.picture.height, drawn.picture.width, drawn.objects


def _coco(scene_set: SceneSet, drawn: Sequence[tuple[int, int, tuple[SceneObject, ...]]]) -> dict[str, Any]:
    ids = {name: number for number, name in enumerate(scene_set.categories, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, (height, width, objects) in enumerate(drawn):
        images.append({"id": index + 1, "file_name": f"{index:06d}.jpg", "height": height, "width": width})
        for item in objects:
            category = ids.get(scene_set.category(item))
            if category is not None:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": category,
                        "bbox": list(item.box),
                        "area": item.box[2] * item.box[3],
                        "iscrowd": 0,
                        "kind": item.kind,
                        "colour": item.colour,
                    }
                )
    return {
        "info": {"description": f"glip-export scenes: {scene_set.name}", "icons": "OpenMoji, CC BY-SA 4.0"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
