"""The command line, run in an empty folder, and a small data set of photos."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from answers import IDS, NAMES, write_set
from PIL import Image

PICTURES = Path(__file__).parents[2] / "glip_export" / "data" / "pictures"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """glip-export eval VERB WORDS... in an empty folder: its exit code, output and error output."""
    from glip_export.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["glip-export", "eval", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        streams = capsys.readouterr()
        return int(stopped.value.code or 0), streams.out, streams.err

    return run


@pytest.fixture
def eval_coco(evaluation: Run) -> Run:
    """Of COCO; an option replaces an earlier one of its name."""
    return lambda *words: evaluation("coco", *last_of_each(list(map(str, words))))


@pytest.fixture
def eval_lvis(evaluation: Run) -> Run:
    """Of LVIS."""
    return partial(evaluation, "lvis")


@pytest.fixture
def eval_flickr(evaluation: Run) -> Run:
    """Of Flickr30k Entities."""
    return partial(evaluation, "flickr30k")


@pytest.fixture
def eval_odinw(evaluation: Run) -> Run:
    """Of ODinW."""
    return partial(evaluation, "odinw")


def last_of_each(words: list[str]) -> list[str]:
    """The words without what a later option of the same name replaces; --backend may be given again."""
    kept: list[str] = []
    for place, word in enumerate(words):
        is_value = place > 0 and words[place - 1].startswith("--") and not word.startswith("--")
        option = words[place - 1] if is_value else word
        if option == "--backend" or option not in words[place + 1 :]:
            kept.append(word)
    return kept


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Ten crops of the packaged photos, of three shapes, an object in each: annotations.json and the folder."""
    folder = tmp_path_factory.mktemp("photos")
    sizes = {number: ((48, 64), (64, 48), (64, 64))[number % 3] for number in range(1, 11)}
    truth = [(number, IDS[number % 3], (5, 5, 30, 30)) for number in sizes]
    annotations, images = write_set(folder, sizes, truth, list(zip(IDS, NAMES, strict=True)))
    sources = [Image.open(PICTURES / f"{name}.jpg") for name in ("cat", "coffee", "rocket", "astronaut")]
    for number, (height, width) in sizes.items():
        crop = sources[number % 4].crop((10 * number, 0, 10 * number + 4 * width, 4 * height))
        crop.resize((width, height)).save(images / f"{number}.png")
    return annotations, images
