"""What the scenes show: kinds of objects, colours, sizes, and the pairs of colour and kind that training never sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Colour:
    """A colour word and how an icon takes it on, in HSV: hue in degrees, saturation 0..1, range of values 0..1."""

    hue: float
    saturation: float
    darkest: float
    lightest: float


COLOURS = {
    "red": Colour(2, 0.85, 0.45, 0.95),
    "yellow": Colour(52, 0.85, 0.60, 1.0),
    "green": Colour(120, 0.75, 0.30, 0.80),
    "blue": Colour(215, 0.80, 0.40, 0.95),
    "purple": Colour(282, 0.65, 0.35, 0.85),
    "black": Colour(0, 0.05, 0.08, 0.35),
    "white": Colour(0, 0.04, 0.78, 1.0),
}

# OpenMoji's code points; a kind with several is drawn as one of them.
KINDS = {
    "apple": ("1F34E",),
    "banana": ("1F34C",),
    "strawberry": ("1F353",),
    "pineapple": ("1F34D",),
    "carrot": ("1F955",),
    "mushroom": ("1F344",),
    "cake": ("1F370", "1F382"),
    "cup": ("2615",),
    "dog": ("1F415", "1F436"),
    "cat": ("1F408", "1F431"),
    "horse": ("1F40E",),
    "rabbit": ("1F407", "1F430"),
    "elephant": ("1F418",),
    "bird": ("1F426",),
    "owl": ("1F989",),
    "fish": ("1F41F",),
    "turtle": ("1F422",),
    "butterfly": ("1F98B",),
    "crab": ("1F980",),
    "frog": ("1F438",),
    "car": ("1F697", "1F699"),
    "bus": ("1F68C", "1F68D"),
    "bicycle": ("1F6B2",),
    "airplane": ("2708",),
    "boat": ("26F5",),
    "rocket": ("1F680",),
    "tree": ("1F333", "1F332"),
    "flower": ("1F33C", "1F33B"),
    "house": ("1F3E0",),
    "chair": ("1FA91",),
    "clock": ("23F0",),
    "key": ("1F511",),
    "umbrella": ("2602",),
    "book": ("1F4D5",),
    "camera": ("1F4F7",),
    "guitar": ("1F3B8",),
    "balloon": ("1F388",),
    "ball": ("26BD", "1F3C0"),
    "hat": ("1F452", "1F3A9"),
    "shirt": ("1F455",),
}

SMALL, BIG = 0.2, 0.42  # an object's longer side over the picture's shorter one: below, above


def held_out_colour(kind: str) -> str:
    """The one colour in which training never shows or names a kind; "green" for the car."""
    kinds, colours = list(KINDS), list(COLOURS)
    return colours[(3 * (kinds.index(kind) - kinds.index("car")) + colours.index("green")) % len(colours)]


def seen_colours(kind: str) -> tuple[str, ...]:
    """The colours in which training shows a kind."""
    return tuple(colour for colour in COLOURS if colour != held_out_colour(kind))


def seen_colour(kind: str) -> str:
    """One of them: its phrases measure what the held-out ones are compared with."""
    colours = seen_colours(kind)
    return colours[list(KINDS).index(kind) % len(colours)]


def unseen_phrases() -> tuple[tuple[str, str], ...]:
    """(colour, kind) of every pair that training never sees."""
    return tuple((held_out_colour(kind), kind) for kind in KINDS)


def seen_phrases() -> tuple[tuple[str, str], ...]:
    """(colour, kind), as many as `unseen_phrases`, of pairs that training sees."""
    return tuple((seen_colour(kind), kind) for kind in KINDS)


def size_word(width: float, height: float, shorter_side: float) -> str:
    """ "small", "big" or "" for a box in a picture of that shorter side, all in the same pixels."""
    share = max(width, height) / shorter_side
    return "small" if share < SMALL else "big" if share > BIG else ""


def pick(rng: np.random.Generator, choices: tuple[str, ...] | list[str]) -> str:
    """One of the choices."""
    return choices[int(rng.integers(len(choices)))]
