"""benchmarks/run_ap.py: every backend and an emulated precision against torch, into JSON and Markdown."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run_ap(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    """The script on two pictures: its exit code."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    import run_ap as script

    from glip_export.cli.console import run_app

    def run(*words: str) -> int:
        common = ["--scenes", "scenes", "--bundle", str(tiny_bundle), "--threads", "1", "--output", "out"]
        monkeypatch.setattr(sys, "argv", ["run_ap.py", *common, *words])
        try:
            run_app(script.main, "run_ap")
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    return run


def test_what_is_written(run_ap, tmp_path: Path, tiny_bundle: Path, photos: tuple[Path, Path]) -> None:
    shutil.copytree(photos[0].parent, tmp_path / "scenes" / "val")
    assert run_ap("--backend", "onnxruntime", "--emulate", "fp16", "--limit", "2") == 0
    found = json.loads((tmp_path / "out" / "ap.json").read_text())
    backends = found["sets"]["val"]["backends"]
    assert list(backends) == ["torch", "onnxruntime", "fp16 graphs, emulated"]
    assert [each["allowed"] for each in backends.values()] == [None, 0.001, 0.005]
    assert all(each["pictures"] == 2 and each["within"] for each in backends.values())
    assert backends["torch"]["detections"] == backends["onnxruntime"]["detections"] > 0
    text = (tmp_path / "out" / "ap.md").read_text()
    assert "## val: 2 pictures, 2 objects, 3 names" in text and "| fp16 graphs, emulated | " in text
    for written in (text, json.dumps(found)):  # results are published: no folder of this machine
        assert str(tmp_path) not in written and str(tiny_bundle) not in written


def test_other_bundles_are_rows_of_their_own(
    run_ap, tmp_path: Path, tiny_bundle: Path, photos: tuple[Path, Path]
) -> None:
    shutil.copytree(photos[0].parent, tmp_path / "scenes" / "val")
    other = tmp_path / "tiny-int8"
    shutil.copytree(tiny_bundle, other, ignore=shutil.ignore_patterns("cache"))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "precision": "int8"}))
    assert run_ap("--backend", "onnxruntime", "--emulate", "--limit", "2", "--also", str(other)) == 0
    found = json.loads((tmp_path / "out" / "ap.json").read_text())
    backends = found["sets"]["val"]["backends"]
    assert {name: each["allowed"] for name, each in backends.items()} == {
        "torch": None, "onnxruntime": 0.001, "onnxruntime, int8": 0.010
    }  # fmt: skip
    assert [one["precision"] for one in found["others"]] == ["int8"]


def test_vacuous_gate_without_annotations(run_ap, tmp_path: Path, photos, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(photos[0].parent, tmp_path / "scenes" / "val")
    truth = tmp_path / "scenes" / "val" / "annotations.json"
    content = json.loads(truth.read_text(encoding="utf-8"))
    truth.write_text(json.dumps({**content, "annotations": []}), encoding="utf-8")
    assert run_ap("--backend", "onnxruntime", "--emulate") == 2
    assert "no annotation that counts on its 10 picture(s)" in capsys.readouterr().err


def test_without_scenes(run_ap, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_ap() == 2
    assert "scenes holds none of val, seen_phrases" in capsys.readouterr().err
