"""No command writes to what it reads: bundles, checkpoints, annotations, pictures, lists of names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import CAT, ran, refused
from PIL import Image

from glip_export.bench.cli import main as bench_main


@pytest.fixture
def folder(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A bundle, its checkpoint, names, a recipe, and a small data set, each in a file that could be named again."""
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    manifest["weights"]["path"] = str(tmp_path / "weights.pth")
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (tmp_path / "weights.pth").write_bytes(b"weights")
    (tmp_path / "names.txt").write_text("cat\n", encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text("profiles: []\n", encoding="utf-8")
    (tmp_path / "images").mkdir()
    Image.open(CAT).resize((96, 64)).save(tmp_path / "images" / "cat.png")
    data = {
        "images": [{"id": 1, "file_name": "cat.png", "height": 64, "width": 96}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 30], "area": 900, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(data), encoding="utf-8")
    return tmp_path


@pytest.fixture
def glip_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs glip-bench: its exit code, output and error output."""

    def run(*words: object) -> tuple[int, str, str]:
        return ran(bench_main, ["glip-bench", *words], monkeypatch, capsys)

    return run


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


EVAL = ["eval", "coco", "--images", "images", "--annotations", "annotations.json", "--bundle", "bundle"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["verify", "bundle", "--json", "bundle/manifest.json"], "--json"),
        (["verify", "bundle", "--json", "weights.pth"], "--json"),
        (["info", "bundle", "--json", "bundle/text_encoder.onnx"], "--json"),
        (["trt", "bundle", "--json", "bundle/fusion_head.onnx.data"], "--json"),
        (["trt", "bundle", "--recipe", "recipe.yaml", "--json", "recipe.yaml"], "--json"),
        ([*EVAL, "--json", "annotations.json"], "--json"),
        ([*EVAL, "--json", "images/cat.png"], "--json"),
        ([*EVAL, "--json", "bundle/manifest.json"], "--json"),
        ([*EVAL, "--names", "names.txt", "--json", "names.txt"], "--json"),
        ([*EVAL, "--output", "out", "--json", "out/onnxruntime/detections.json"], "--json"),
    ],
)
def test_overwrites_input_of_no_command(glip_export, folder: Path, words: list[str], told: str) -> None:
    before = contents(folder)
    refused(glip_export(*words), told)
    assert contents(folder) == before


def test_overwrites_input_by_the_folder_of_eval(glip_export, folder: Path) -> None:
    (folder / "out" / "onnxruntime").mkdir(parents=True)
    (folder / "annotations.json").rename(folder / "out" / "onnxruntime" / "detections.json")
    words = [word if word != "annotations.json" else "out/onnxruntime/detections.json" for word in EVAL]
    before = contents(folder)
    refused(glip_export(*words, "--output", "out"), "--output", "detections.json")
    assert contents(folder) == before


def test_overwrites_input_that_is_a_shard_of_the_weights(glip_export, folder: Path) -> None:
    (folder / "shard.safetensors").write_bytes(b"weights")
    (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "shard.safetensors"}}))
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    manifest["weights"]["path"] = str(folder / "m.safetensors.index.json")
    (folder / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    before = contents(folder)
    refused(glip_export("info", "bundle", "--json", "shard.safetensors"), "--json")
    assert contents(folder) == before


def test_overwrites_input_of_an_export(glip_export, folder: Path, oracle_tiny: Path) -> None:
    """A bundle is replaced whole by the next one: not where the checkpoint lies in it."""
    shutil.copy(oracle_tiny / "weights.pth", folder / "bundle")
    given = ["--config", oracle_tiny / "config.yaml", "--bert-config", oracle_tiny / "bert_config.json"]
    before = contents(folder)
    refused(glip_export("onnx", "--weights", "bundle/weights.pth", *given, "--output", "bundle"), "--output")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--json", "bundle/manifest.json"], "--json"),
        (["--plot", "bundle/vision_backbone.onnx"], "--plot"),
        (["--prompt-file", "names.txt", "--json", "names.txt"], "--json"),
        (["--plot", "same", "--json", "same"], "--json"),
    ],
)
def test_overwrites_input_of_no_benchmark(glip_bench, folder: Path, monkeypatch, words: list[str], told: str) -> None:
    monkeypatch.chdir(folder)
    before = contents(folder)
    refused(glip_bench("--bundle", "bundle", *words), told)
    assert contents(folder) == before
