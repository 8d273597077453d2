"""Whatever the console's encoding: commands print what it can show, and files are UTF-8."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from glip_export.results.detections import Detections
from glip_export.results.gallery import GalleryPicture, write_gallery

ROOT = Path(__file__).parents[2]
CAT = ROOT / "glip_export" / "data" / "pictures" / "cat.jpg"
NAME = "猫 ✓é.jpg"


def run(folder: Path, encoding: str, *words: object) -> subprocess.CompletedProcess[bytes]:
    """A command with its output in a file of that encoding, as on a Windows console that is redirected."""
    variables = {"PYTHONUTF8": "0", "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, cwd=folder, env={**os.environ, **variables}, capture_output=True, check=False)


def well(done: subprocess.CompletedProcess[bytes], encoding: str) -> str:
    assert done.returncode == 0 and b"Traceback" not in done.stderr + done.stdout, done.stderr.decode(encoding)
    return done.stdout.decode(encoding)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_encoding_of_detect(tmp_path: Path, tiny_bundle: Path, encoding: str) -> None:
    shutil.copy(CAT, tmp_path / NAME)
    files = ["--json", "猫.json", "--html", "猫.html", "--output", "見た"]
    words = ["detect", NAME, "--prompt", "cat", "--bundle", tiny_bundle, "--threshold", 0, "--threads", 1, *files]
    shown = well(run(tmp_path, encoding, "glip_export.cli", *words), encoding)
    assert "\\u732b" in shown and ("é" if encoding == "cp1252" else "\\xe9") in shown
    assert json.loads((tmp_path / "猫.json").read_text(encoding="utf-8"))["results"][0]["file"] == NAME
    assert NAME in (tmp_path / "猫.html").read_text(encoding="utf-8")
    assert len(list((tmp_path / "見た").iterdir())) == 1


def test_encoding_of_eval_and_its_names(tmp_path: Path, tiny_bundle: Path) -> None:
    pytest.importorskip("pycocotools", reason="the extra eval is not installed")
    shutil.copy(CAT, tmp_path / "1.jpg")
    truth = {
        "images": [{"id": "猫", "file_name": "1.jpg"}, {"id": 2, "file_name": "ない.jpg"}],
        "annotations": [{"id": 1, "image_id": "猫", "category_id": 1, "bbox": [10, 20, 100, 100]}],
        "categories": [{"id": 0, "name": "動物"}, {"id": 1, "name": "café ✓"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth, ensure_ascii=False), encoding="utf-8")
    words = ["eval", "coco", "--images", ".", "--annotations", "truth.json", "--bundle", tiny_bundle]
    done = run(tmp_path, "cp1252", "glip_export.cli", *words, "--threads", 1, "--json", "ap.json", "--output", "out")
    assert "café \\u2713" in well(done, "cp1252")
    found = json.loads((tmp_path / "out" / "onnxruntime" / "detections.json").read_text(encoding="utf-8"))
    assert {result["image_id"] for result in found} == {"猫"}


def test_encoding_of_verify_info_and_refusals(tmp_path: Path, tiny_bundle: Path) -> None:
    done = run(tmp_path, "cp1252", "glip_export.cli", "verify", tiny_bundle, "--quick", "--threads", 1, "--trace")
    assert "PASSED" in well(done, "cp1252")
    (tmp_path / "モデル").symlink_to(tiny_bundle)
    assert "\\u30e2" in well(run(tmp_path, "ascii", "glip_export.cli", "info", "モデル"), "ascii")
    refused = run(tmp_path, "ascii", "glip_export.cli", "info", "ない")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and b"\\u306a" in refused.stderr
    assert "Usage" in well(run(tmp_path, "ascii", "glip_export.cli", "detect", "--help"), "ascii")


def test_encoding_of_the_bench(tmp_path: Path, tiny_bundle: Path) -> None:
    words = ["--bundle", tiny_bundle, "--backend", "onnxruntime", "--runs", 1, "--warmup", 0, "--threads", 1]
    words += ["--no-cost", "--image-size", "64x64", "--prompt", "café ✓", "--json", "速.json"]
    assert "速" not in well(run(tmp_path, "ascii", "glip_export.bench.cli", *words), "ascii")
    assert json.loads((tmp_path / "速.json").read_text(encoding="utf-8"))["runs"]


def test_encoding_of_a_page_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    """A file's name may be any bytes; Python holds those that are no UTF-8 as halves of surrogate pairs."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ("cat",), (20, 30))
    write_gallery(tmp_path / "page.html", [GalleryPicture("caf\udce9.png", pixels, none)], "cat", "here")
    assert "caf?.png" in (tmp_path / "page.html").read_text(encoding="utf-8")


SOURCES = sorted(path for room in ("glip_export", "demo", "benchmarks") for path in (ROOT / room).rglob("*.py"))


def test_encoding_is_named_wherever_text_is_read_or_written() -> None:
    """Else it is the console's or the system's: on Windows a page of 256 letters."""
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line in unnamed(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found


@pytest.mark.parametrize(
    ("source", "is_unnamed"),
    [
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("path.open(mode='a')", True),
        ("path.read_text()", True),
        ("path.read_text(errors='replace')", True),
        ("path.write_text(text)", True),
        ("os.fdopen(1, 'w')", True),
        ("subprocess.run(words, text=True)", True),
        ("tempfile.TemporaryFile('w+')", True),
        ("path.open('rb')", False),
        ("open(path, encoding='utf-8')", False),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text, encoding='utf-8')", False),
        ("subprocess.run(words, text=True, encoding='utf-8')", False),
        ("tempfile.TemporaryFile()", False),
        ("Image.open(path)", False),
    ],
)
def test_what_counts_as_unnamed(source: str, is_unnamed: bool) -> None:
    assert bool(list(unnamed(ast.parse(source)))) is is_unnamed


def unnamed(tree: ast.AST) -> Iterator[int]:
    """Lines of calls that read or write text in an encoding that they do not name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_text(node) and not any(word.arg == "encoding" for word in node.keywords):
            yield node.lineno


def _is_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    given = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
    values = [value.value if isinstance(value, ast.Constant) else None for value in call.args]
    if name == "read_text":
        return not call.args
    if name == "write_text":
        return len(call.args) < 2
    if name in ("run", "Popen", "check_output"):
        return bool(given.get("text") or given.get("universal_newlines"))
    if name in ("TemporaryFile", "NamedTemporaryFile"):
        return "b" not in str(given.get("mode", values[0] if values else "w+b"))
    if name == "fdopen" or (name == "open" and owner is None):
        modes = [word.value for word in call.keywords if word.arg == "mode"] + call.args[1:2]
        return not modes or "b" not in ast.unparse(modes[0])
    if name == "open" and len(call.args) < 2:
        mode = given.get("mode", values[0] if values else "r" if not call.keywords else None)
        return mode is not None and set(str(mode)) <= set("rwax+t")
    return False
