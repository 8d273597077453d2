"""The live page on the trained demo model: the right names for the picture that `make demo` asks about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Server, look_for, visible_names

from glip_export.runtime.detector import Detector

DEMO = Path(__file__).parents[2] / "demo"
SHOWN = 0.4  # score from which `make demo` takes a detection for an answer


@pytest.fixture(scope="module")
def demo_server(demo_bundle: Path, serving) -> Iterator[Server]:
    with serving(demo_bundle) as running:
        yield running


def test_finds_what_the_prompts_name(open_tab, demo_server: Server, demo_bundle: Path) -> None:
    known = json.loads((DEMO / "picture.json").read_text(encoding="utf-8"))
    detector = Detector.open(demo_bundle)
    tab = open_tab(f"{demo_server.address}?score={SHOWN}")
    tab.page.set_input_files("#file", DEMO / "picture.jpg")
    for prompt in known["prompts"]:
        look_for(tab.page, prompt)
        names = sorted(visible_names(tab.page))
        found = detector.detect([DEMO / "picture.jpg"], prompt)[0]
        assert names == sorted(found.above(SHOWN).names)
        asked = found.classes
        assert names == sorted(name for entry in known["objects"] for name in entry["names"] if name in asked)
    assert tab.console == []
