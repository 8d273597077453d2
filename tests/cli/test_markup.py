"""What users give is shown as it stands: neither rich's [markup] nor an :emoji: is read out of it, anywhere."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from glip_export.cli import console as consoles
from glip_export.cli import progress as bars
from glip_export.parity.ladder import Comparison, ParityResult
from glip_export.parity.metrics import Tolerance
from glip_export.parity.report import ParityReport

ROOT = Path(__file__).parents[2]
CAT = ROOT / "glip_export" / "data" / "pictures" / "cat.jpg"
NAMES = ["IMG[final].png", "cat [b] [slash b]", "[red]x[red]", "[", ":smile: [bold].jpg", "[link=a]b"]
WORDS = "cat [/b]. [red]x[/red]. :smile:. [bold]"


@pytest.mark.parametrize("name", NAMES)
def test_markup_in_the_names_of_files(glip_export, tmp_path: Path, tiny_bundle: Path, name: str) -> None:
    shutil.copy(CAT, tmp_path / f"{name}.jpg")
    words = ["detect", f"{name}.jpg", "--prompt", WORDS, "--bundle", tiny_bundle, "--threads", 1, "--threshold", 0]
    code, out, err = glip_export(*words, "--output", f"out {name}", "--json", f"{name}.json")
    assert code == 0, err
    assert f"{name}.jpg" in out and f"out {name}" in out and f"{name}.json" in out
    shown = [word for word in ("cat [/b]", "[red]x[/red]", ":smile:", "[bold]") if f" {word} " in out]
    found = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["results"][0]
    first = {each["name"] for each in found["detections"][:20]}
    assert first and first <= {*shown}


@pytest.mark.skipif(os.name == "nt", reason="no such names on Windows")
def test_markup_of_terminals_in_the_names_of_files(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    """Neither an escape sequence nor a line of its own: not in a table, a warning, an error, or what is left out."""
    evil = "a\x1b[31m\nb\u202e"
    shown = r"a\x1b[31m\nb\u202e"
    shutil.copy(CAT, tmp_path / f"{evil}.jpg")
    (tmp_path / f"{evil}.png").write_text("no picture")
    (tmp_path / "names.txt").write_text("cat\x1b[31m\n\u732b\x07\n", encoding="utf-8")
    words = ["--bundle", tiny_bundle, "--threads", 1, "--threshold", 0, "--names", "names.txt", "--output", evil]
    code, out, err = glip_export("detect", f"{evil}.jpg", f"{evil}.png", *words)
    assert code == 0 and shown in out and f"Wrote {shown}\n" in out
    assert len(err.splitlines()) == 2 and "warning" in err and f"left out: '{shown}.png'" in err
    assert "\x1b" not in out + err and "\u202e" not in out + err
    for wrong in (["info", evil], ["detect", f"{evil}.gif", *words], ["info", tiny_bundle, "--json", f"{evil}.jpg/x"]):
        code, out, err = glip_export(*wrong)
        assert code == 2 and len(err.splitlines()) == 1 and shown in err and "\x1b" not in out + err


def test_markup_in_the_name_of_a_bundle(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "a[b]c [red]")
    code, out, _ = glip_export("info", "a[b]c [red]", "--json", "[i].json")
    assert code == 0 and "a[b]c [red]" in out and "Wrote [i].json" in out
    code, out, _ = glip_export("triton", "a[b]c [red]", "--output", "[x] :smile:")
    assert code == 0 and "Wrote [x] :smile:" in out
    code, out, _ = glip_export("verify", "a[b]c [red]", "--quick", "--threads", 1, "--json", "[/red].json")
    assert code == 0 and "PASSED" in out
    detect = ["detect", "[/i].png", "--prompt", "[/b]", "--bundle", tiny_bundle]
    for words, shown in ((["info", "[/b]"], "[/b]"), (["verify", "[red]"], "[red]"), (detect, "[/i].png")):
        code, out, err = glip_export(*words)
        assert code == 2 and shown in err and "Traceback" not in err + out


def test_markup_in_a_data_set(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    pytest.importorskip("pycocotools", reason="the extra eval is not installed")
    shutil.copy(CAT, tmp_path / "[1].jpg")
    truth = {
        "images": [{"id": "[/x]", "file_name": "[1].jpg"}, {"id": 2, "file_name": "[none] [/b].jpg"}],
        "annotations": [{"id": 1, "image_id": "[/x]", "category_id": 1, "bbox": [10, 20, 100, 100]}],
        "categories": [{"id": 0, "name": "[all]"}, {"id": 1, "name": "cat [/b] :smile:"}],
    }
    (tmp_path / "[t].json").write_text(json.dumps(truth), encoding="utf-8")
    words = ["eval", "coco", "--images", ".", "--annotations", "[t].json", "--bundle", tiny_bundle, "--threads", 1]
    code, out, err = glip_export(*words, "--output", "[o]")
    assert code == 0, err
    for shown in ("cat [/b] :smile:", "[none] [/b].jpg", "'[all]'", "Wrote [o]/onnxruntime"):
        assert shown in out
    assert "was of another evaluation" in glip_export(*words, "--output", "[o]", "--batch", 1)[1]


def test_markup_in_what_parity_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend's own error and its name, on any console."""
    broken = Comparison("case [a]", error="RuntimeError: shape [/1, 2] :smile:")
    result = ParityResult("torch", "[b]backend", Tolerance(), (broken,), Comparison("batch invariance"))
    for console in (consoles.make_console(False), Console(width=130)):
        with console.capture() as captured:
            console.print(ParityReport((result,)).table())
        assert "[b]backend: case [a]: stopped: RuntimeError: shape [/1, 2] :smile:" in captured.get()


@pytest.mark.parametrize("make", [consoles.steps_progress, bars.pictures_progress])
def test_markup_in_what_a_bar_tells(make) -> None:
    bar: Progress = make()
    task = bar.add_task("comparing [/b] of a[b].onnx :smile: \x1b[2J", total=3)
    column = next(column for column in bar.columns if isinstance(column, consoles.Description))
    assert column.render(bar.tasks[task]).plain == "comparing [/b] of a[b].onnx :smile: \\x1b[2J"


def test_markup_is_off_on_the_console_of_every_command() -> None:
    with consoles.console.capture() as captured:
        consoles.console.print("a [red]b[/red] [/c] :smile:")
    assert captured.get() == "a [red]b[/red] [/c] :smile:\n"
