"""Batches to train on: pictures of a data set of scenes, augmented, with a caption each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.image import F32, load_image, preprocess
from glip_export.prompt import Prompt, class_map
from glip_export.training.captions import Caption, all_kinds, mixed
from glip_export.training.losses import Objects
from glip_export.training.scenes import SceneObject
from glip_export.training.settings import TrainingSettings

ALL_KINDS = 0.15  # share of batches that are asked for every kind, as in evaluation
MOST_NEGATIVES = 16
UNTIL = 0.55  # of a run: how long mosaics are trained on
ALL_KINDS_OF_MOSAICS = 0.5
FEW_NEGATIVES = 4  # a mosaic's caption is long enough without
SORTED = 4  # batches whose pictures are sorted by aspect ratio together (GLIP: ASPECT_RATIO_GROUPING)


@dataclass(frozen=True)
class Example:
    """A picture on disk and its objects."""

    path: Path
    objects: tuple[SceneObject, ...]
    aspect: float  # width over height


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    images: torch.Tensor  # (B, 3, H, W)
    input_ids: torch.Tensor  # int64 (B, T)
    attention_mask: torch.Tensor  # int64 (B, T)
    objects: tuple[Objects, ...]


Captioner = Callable[[Sequence[SceneObject], float, np.random.Generator], Caption]


def read_examples(folder: Path) -> list[Example]:
    """The pictures of a data set that `write_scenes` made. Raises GlipExportError if there is none."""
    path = folder / "annotations.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        objects: dict[int, list[SceneObject]] = {image["id"]: [] for image in data["images"]}
        for item in data["annotations"]:
            objects[item["image_id"]].append(SceneObject(item["kind"], item["colour"], tuple(item["bbox"])))
    except (OSError, ValueError, KeyError) as error:
        raise GlipExportError(f"{path}: no scenes to train on ({error}); write them with the command scenes") from error
    return [
        Example(folder / "images" / image["file_name"], tuple(objects[image["id"]]), image["width"] / image["height"])
        for image in data["images"]
    ]


def training_batch(
    examples: Sequence[Example],
    step: int,
    config: GlipConfig,
    settings: TrainingSettings,
    mosaics: Sequence[Example] = (),
) -> Batch:
    """The batch of a step: a function of the seed and the step alone, so that a run can go on anywhere.

    Every epoch shows each example once, in its own order. In the first part of a run every other batch is of mosaics,
    if there are any: with five times the objects of a scene names are bound sooner to what they name.
    """
    rng = np.random.default_rng((settings.seed, step))
    if mosaics and step % 2 and step < UNTIL * settings.steps:
        chosen = [mosaics[index] for index in rng.integers(len(mosaics), size=settings.batch_size)]
        share, most_negatives = ALL_KINDS_OF_MOSAICS, FEW_NEGATIVES
    else:
        first = step * settings.batch_size
        places = range(first, first + settings.batch_size)
        chosen = [examples[_example_at(place, examples, settings)] for place in places]
        share, most_negatives = ALL_KINDS, MOST_NEGATIVES
    if rng.random() < share:
        return make_batch(chosen, config, settings, rng, lambda objects, side, rng: all_kinds(objects, rng))
    negatives = int(rng.integers(1, most_negatives + 1))  # the same for the batch, whose captions are padded together
    return make_batch(chosen, config, settings, rng, lambda objects, side, rng: mixed(objects, side, negatives, rng))


def _example_at(place: int, examples: Sequence[Example], settings: TrainingSettings) -> int:
    """The example at a place of the endless series of epochs."""
    epoch, index = divmod(place, len(examples))
    return _order(tuple(example.aspect for example in examples), settings.seed, settings.batch_size, epoch)[index]


@lru_cache(maxsize=2)
def _order(aspects: tuple[float, ...], seed: int, batch_size: int, epoch: int) -> list[int]:
    """An epoch's order: shuffled, then sorted by aspect ratio within a few batches, that they need less padding."""
    rng = np.random.default_rng((seed, 1 << 32, epoch))
    order = rng.permutation(len(aspects))
    ordered = []
    for start in range(0, len(order), SORTED * batch_size):
        block = sorted(order[start : start + SORTED * batch_size].tolist(), key=lambda index: aspects[index])
        batches = [block[first : first + batch_size] for first in range(0, len(block), batch_size)]
        ordered += [index for number in rng.permutation(len(batches)) for index in batches[number]]
    return ordered


def make_batch(
    examples: Sequence[Example],
    config: GlipConfig,
    settings: TrainingSettings,
    rng: np.random.Generator,
    caption: Captioner,
) -> Batch:
    """Reads the examples, flips and resizes them, and names what they show."""
    drawn = [_draw(example, config, settings, rng) for example in examples]
    captions = [caption(objects, min(picture.shape[1:]), rng) for picture, objects in drawn]
    chunks = [Prompt(said.names).chunks(config.text.max_query_len, config.text.separator)[0] for said in captions]
    length = max(len(chunk.input_ids) for chunk in chunks)
    input_ids = torch.zeros(len(chunks), length, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    targets = []
    for row, (chunk, said, (_, objects)) in enumerate(zip(chunks, captions, drawn, strict=True)):
        input_ids[row, : len(chunk.input_ids)] = torch.from_numpy(chunk.input_ids)
        attention_mask[row, : len(chunk.input_ids)] = 1
        tokens = torch.from_numpy(class_map(chunk, "MEAN", length)).T  # (names, T)
        boxes = torch.tensor([item.box for item in objects], dtype=torch.float32).view(-1, 4)
        boxes = torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1), 1)  # GLIP: xywh to xyxy
        labels = torch.tensor(said.labels, dtype=torch.int64)
        targets.append(Objects(boxes[labels >= 0], tokens[labels[labels >= 0]]))
    return Batch(_padded([picture for picture, _ in drawn], config), input_ids, attention_mask, tuple(targets))


def draw_examples(
    examples: Sequence[Example], config: GlipConfig, settings: TrainingSettings, rng: np.random.Generator
) -> tuple[torch.Tensor, list[tuple[SceneObject, ...]]]:
    """The examples flipped and resized, padded together (B, 3, H, W), and their objects with boxes in its pixels."""
    drawn = [_draw(example, config, settings, rng) for example in examples]
    return _padded([picture for picture, _ in drawn], config), [objects for _, objects in drawn]


def _draw(
    example: Example, config: GlipConfig, settings: TrainingSettings, rng: np.random.Generator
) -> tuple[F32, tuple[SceneObject, ...]]:
    """A picture as the network's input (3, h, w), and its objects with boxes in its pixels."""
    picture = load_image(example.path)
    objects = example.objects
    if rng.random() < settings.flip:
        picture = np.ascontiguousarray(picture[:, ::-1])
        objects = tuple(replace(item, box=_mirrored(item.box, picture.shape[1])) for item in objects)
    short_side = settings.short_sides[int(rng.integers(len(settings.short_sides)))]
    batch = preprocess([picture], replace(config.image, min_size=short_side, max_size=100 * short_side))
    height, width = batch.sizes[0]
    y, x = height / picture.shape[0], width / picture.shape[1]
    scaled = tuple(
        replace(item, box=(item.box[0] * x, item.box[1] * y, item.box[2] * x, item.box[3] * y)) for item in objects
    )
    return batch.images[0, :, :height, :width], scaled


def _mirrored(box: tuple[float, float, float, float], width: int) -> tuple[float, float, float, float]:
    return width - box[0] - box[2], box[1], box[2], box[3]


def _padded(pictures: Sequence[F32], config: GlipConfig) -> torch.Tensor:
    """As the original pads a batch: zeros at bottom and right, up to the largest, rounded up."""
    divisor = config.image.size_divisor
    height, width = (-(-max(picture.shape[axis] for picture in pictures) // divisor) * divisor for axis in (1, 2))
    images = torch.zeros(len(pictures), 3, height, width)
    for picture, image in zip(pictures, images, strict=True):
        image[:, : picture.shape[1], : picture.shape[2]] = torch.from_numpy(picture)
    return images
