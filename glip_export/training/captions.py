"""Captions to train on: the names of what a picture shows, among names of what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glip_export.training.scenes import SceneObject
from glip_export.training.vocabulary import KINDS, pick, seen_colours, size_word

NAMED = 0.85  # share of the phrases that fit a picture which its caption says
LEVELS = ("kind", "colour", "size")


@dataclass(frozen=True)
class Caption:
    """Names in the order they are said, and of each object the name's index, -1 if no name fits it."""

    names: tuple[str, ...]
    labels: tuple[int, ...]


def all_kinds(objects: Sequence[SceneObject], rng: np.random.Generator) -> Caption:
    """Every kind, shuffled: what evaluation asks for."""
    names = [list(KINDS)[index] for index in rng.permutation(len(KINDS))]
    return Caption(tuple(names), tuple(names.index(item.kind) for item in objects))


def mixed(objects: Sequence[SceneObject], shorter_side: float, negatives: int, rng: np.random.Generator) -> Caption:
    """Each kind of the picture by its name, colours or sizes, and `negatives` other phrases, shuffled.

    Of a kind named by colour or size a phrase fits only those objects that have it; its others go unnamed.
    """
    levels = {kind: _level(kind, objects, rng) for kind in dict.fromkeys(item.kind for item in objects)}
    phrases = [_phrase(item, levels[item.kind], shorter_side) for item in objects]
    said = [phrase for phrase in dict.fromkeys(phrases) if phrase and rng.random() < NAMED]
    taken = {*said, *phrases}
    others = dict.fromkeys(_negative(levels, rng) for _ in range(negatives))
    names = said + [phrase for phrase in others if phrase not in taken]
    names = names or [pick(rng, list(KINDS))]
    order = [names[index] for index in rng.permutation(len(names))]
    places = {name: index for index, name in enumerate(order)}
    fits = [phrase if phrase in places else item.kind for phrase, item in zip(phrases, objects, strict=True)]
    return Caption(tuple(order), tuple(places.get(phrase, -1) for phrase in fits))


def _level(kind: str, objects: Sequence[SceneObject], rng: np.random.Generator) -> str:
    coloured = all(item.colour for item in objects if item.kind == kind)
    return LEVELS[int(rng.choice(3, p=(0.45, 0.45, 0.1) if coloured else (0.85, 0, 0.15)))]


def _phrase(item: SceneObject, level: str, shorter_side: float) -> str:
    """The phrase of its level that fits an object, "" if none does."""
    word = {"kind": "", "colour": item.colour, "size": size_word(item.box[2], item.box[3], shorter_side)}[level]
    return f"{word} {item.kind}" if word else item.kind if level == "kind" else ""


def _negative(levels: dict[str, str], rng: np.random.Generator) -> str:
    """A phrase at random that contradicts no phrase of the picture: of its own kinds only at the kind's level."""
    kind = pick(rng, list(levels) or list(KINDS)) if rng.random() < 0.25 else pick(rng, list(KINDS))
    level = levels.get(kind) or LEVELS[int(rng.choice(3, p=(0.5, 0.4, 0.1)))]
    if level == "colour":
        return f"{pick(rng, seen_colours(kind))} {kind}"
    if level == "size":
        return f"{pick(rng, ('small', 'big'))} {kind}"
    return kind
