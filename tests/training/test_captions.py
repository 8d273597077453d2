"""Captions: what they name fits, and what training must not see they never say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from glip_export.training.captions import all_kinds, mixed
from glip_export.training.scenes import SceneObject
from glip_export.training.vocabulary import BIG, KINDS, SMALL, held_out_colour, seen_colours, unseen_phrases

SIDE = 256.0


def thing(kind: str, colour: str, side: float = 80) -> SceneObject:
    return SceneObject(kind, colour, (0, 0, side, side / 2))


PICTURE = (
    thing("apple", "red"),
    thing("apple", "green", 20),
    thing("dog", "", 200),
    thing("dog", ""),
    thing("car", "blue"),
    thing("tree", ""),
)


def says(name: str, item: SceneObject) -> bool:
    """Whether a name fits an object, told from the words alone."""
    *words, kind = name.split(" ")
    if kind != item.kind:
        return False
    share = max(item.box[2:]) / SIDE
    return all({"small": share < SMALL, "big": share > BIG}.get(word, word == item.colour) for word in words)


def test_all_kinds_names_each_once_and_labels_every_object() -> None:
    caption = all_kinds(PICTURE, np.random.default_rng(0))
    assert sorted(caption.names) == sorted(KINDS) and caption.names != tuple(KINDS)
    assert [caption.names[label] for label in caption.labels] == [item.kind for item in PICTURE]


@pytest.mark.parametrize("seed", range(4))
def test_a_label_is_the_only_name_that_fits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(300):
        caption = mixed(PICTURE, SIDE, int(rng.integers(1, 17)), rng)
        assert len(set(caption.names)) == len(caption.names) > 0
        for item, label in zip(PICTURE, caption.labels, strict=True):
            assert [index for index, name in enumerate(caption.names) if says(name, item)] == [label] * (label >= 0)


def test_names_are_of_every_form_and_in_any_order() -> None:
    rng = np.random.default_rng(1)
    captions = [mixed(PICTURE, SIDE, 8, rng) for _ in range(2000)]
    said = Counter(name for caption in captions for name in caption.names)
    for name in ("apple", "red apple", "green apple", "small apple", "dog", "big dog", "blue car", "banana"):
        assert said[name] > 20, name
    assert said["red dog"] == 0  # of a kind in its own colours no colour can be denied
    assert said["white apple"] > 20  # the same kind in a colour that is not there
    places = [caption.labels[4] / len(caption.names) for caption in captions if caption.labels[4] >= 0]
    assert 0.35 < np.mean(places) < 0.55


def test_training_never_says_a_held_out_pair() -> None:
    rng = np.random.default_rng(2)
    said: set[str] = set()
    for _ in range(3000):
        said.update(mixed(PICTURE, SIDE, 16, rng).names)
    held_out = {f"{colour} {kind}" for colour, kind in unseen_phrases()}
    assert len(held_out) == len(KINDS) and "green car" in held_out
    assert not said & held_out
    wanted = {f"{colour} {kind}" for kind in KINDS for colour in seen_colours(kind)} - {
        f"{colour} {kind}" for kind in ("dog", "tree") for colour in seen_colours(kind)
    }
    assert wanted <= said
    assert held_out_colour("car") == "green"


def test_an_empty_picture_still_has_a_caption() -> None:
    caption = mixed((), SIDE, 3, np.random.default_rng(3))
    assert len(caption.names) >= 1 and caption.labels == ()
