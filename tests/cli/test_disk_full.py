"""A disk that is full, in every command: one line that names the file, exit code 2, nothing half-written.

The kernel's limit on a file's size stands for the full disk: what goes beyond it is refused at the same places.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from PIL import Image

from glip_export.bundle import Bundle
from glip_export.bundle.files import atomic_directory, atomic_path, atomic_write_bytes
from glip_export.errors import BundleError, GlipExportError
from glip_export.results.annotated import save_annotated
from glip_export.results.detections import Detections
from glip_export.results.gallery import GalleryPicture, write_gallery
from glip_export.results.pictures import write_picture

resource = pytest.importorskip("resource", reason="Windows has no such limits")

PICTURE = "small.png"


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes meanwhile; SIGXFSZ is ignored by Python itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / PICTURE)
    return tmp_path / PICTURE


@pytest.mark.parametrize(
    ("limit", "words", "named"),
    [
        (1000, ["detect", PICTURE, "--prompt", "cat", "--threads", 1, "--bundle", "BUNDLE", "--output", "out"], "out"),
        (500, ["info", "BUNDLE", "--json", "info.json"], "info.json"),
        (500, ["verify", "BUNDLE", "--quick", "--threads", 1, "--json", "parity.json"], "parity.json"),
        (9000, ["triton", "BUNDLE", "--output", "repository"], "repository"),
    ],
)
def test_disk_full_is_one_line(glip_export, tmp_path: Path, picture, tiny_bundle: Path, limit, words, named) -> None:
    words = [tiny_bundle if word == "BUNDLE" else word for word in words]
    with files_up_to(limit):
        code, out, err = glip_export(*words)
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2 and len(lines) == 1 and "Traceback" not in out + err, out + err
    assert "cannot write" in lines[0] and named in lines[0] and "File too large" in lines[0]
    assert "partial-" not in lines[0] and files(tmp_path) == [PICTURE]


def test_disk_full_while_evaluating(glip_export, tmp_path: Path, picture, tiny_bundle: Path) -> None:
    """Begun again with room on the disk it goes on and gives what an undisturbed run gives."""
    pytest.importorskip("pycocotools", reason="the extra eval is not installed")
    for number in range(1, 4):
        shutil.copy(picture, tmp_path / f"{number}.png")
    truth = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 64, "height": 64} for number in range(1, 4)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    words = ["eval", "coco", "--images", ".", "--annotations", "truth.json", "--bundle", tiny_bundle]
    words += ["--threads", 1, "--batch", 1]
    assert glip_export(*words, "--output", "whole")[0] == 0
    journal = tmp_path / "whole" / "onnxruntime" / "progress.jsonl"
    first = len(journal.read_bytes().splitlines()[0])
    for limit in (first // 2, first + 100, journal.stat().st_size - 200):  # what was asked, the first batch, the last
        with files_up_to(limit):
            code, out, err = glip_export(*words, "--output", "full")
        assert code == 2 and len(err.splitlines()) == 1 and "cannot write full/onnxruntime/progress.jsonl" in err, err
        assert "Traceback" not in out + err
    assert glip_export(*words, "--output", "full")[0] == 0
    found = [(tmp_path / name / "onnxruntime" / "detections.json").read_bytes() for name in ("whole", "full")]
    assert found[0] == found[1]
    with files_up_to(200):  # the journal is whole; detections.json is what cannot be written
        code, _, err = glip_export(*words, "--output", "full", "--json", "ap.json")
    assert code == 2 and len(err.splitlines()) == 1 and "onnxruntime/detections.json: File too large" in err
    assert (tmp_path / "full" / "onnxruntime" / "detections.json").read_bytes() == found[0]


def test_disk_full_for_a_bench_report(tmp_path: Path, tiny_bundle: Path, monkeypatch, capsys) -> None:
    from glip_export.bench import cli

    monkeypatch.chdir(tmp_path)
    words = ["--bundle", str(tiny_bundle), "--backend", "onnxruntime", "--runs", "1", "--warmup", "0", "--no-cost"]
    words += ["--image-size", "64x64", "--prompt", "cat", "--threads", "1", "--json", "bench.json"]
    monkeypatch.setattr(sys, "argv", ["glip-bench", *words])
    with files_up_to(300), pytest.raises(SystemExit) as stopped:
        cli.main()
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and len(err.splitlines()) == 1 and "bench.json: File too large" in err
    assert files(tmp_path) == []


def plot(target: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra bench is not installed")
    from matplotlib.figure import Figure

    from glip_export.bench.plot import save

    save(Figure(), target)


def page(target: Path) -> None:
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ("cat",), (20, 30))
    write_gallery(target, [GalleryPicture("a.png", np.zeros((20, 30, 3), np.uint8), none)], "cat", "here")


def photo(target: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)
    write_picture(target, Image.fromarray(noise), "JPEG")


def annotated(target: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)
    save_annotated(Image.fromarray(noise), target)


def array(target: Path) -> None:
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.save(file, np.arange(9999))


def checkpoint(target: Path) -> None:
    torch = pytest.importorskip("torch", reason="the extra export is not installed")
    from glip_export.training.saving import save_torch

    save_torch({"weights": torch.zeros(9999)}, target)


@pytest.mark.parametrize("write", [page, photo, annotated, array, plot, checkpoint])
def test_disk_full_for_every_kind_of_file(tmp_path: Path, write: Callable[[Path], None]) -> None:
    target = tmp_path / "kept"
    target.write_bytes(b"old")
    if write is plot:
        plot(tmp_path / "fonts.png")  # matplotlib keeps a list of fonts, which is not under test
        (tmp_path / "fonts.png").unlink()
    with files_up_to(2000), pytest.raises(GlipExportError, match=r"cannot write .*kept: ") as told:
        write(target)
    assert "\n" not in str(told.value) and "partial-" not in str(told.value).partition(": ")[0]
    assert files(tmp_path) == ["kept"] and target.read_bytes() == b"old"


def test_disk_full_for_a_graph_and_its_weights(tmp_path: Path, tiny_bundle: Path) -> None:
    """As `glip-export onnx` and `trt` write them: into a folder that becomes the bundle only when all is there."""
    graph = onnx_ir.load(Bundle.open(tiny_bundle, verify=False).graph_path("vision_backbone"))
    target = tmp_path / "bundle"
    refused = pytest.raises(BundleError, match=r"cannot write .*bundle: ")
    with files_up_to(200_000), refused as told, atomic_directory(target) as folder:
        onnx_ir.save(graph, folder / "graph.onnx", external_data="graph.onnx.data")
    assert "\n" not in str(told.value) and list(tmp_path.iterdir()) == []


def test_disk_full_names_the_folder_that_was_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with files_up_to(10), pytest.raises(BundleError) as told, atomic_directory(target) as folder:
        atomic_write_bytes(folder / "manifest.json", bytes(99))
    assert str(told.value) == f"cannot write {tmp_path / 'bundle' / 'manifest.json'}: File too large"
    assert list(tmp_path.iterdir()) == []


def test_errors_of_reading_are_not_taken_for_writing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "new"):
        (tmp_path / "none").read_bytes()
    with pytest.raises(ConnectionRefusedError), atomic_directory(tmp_path / "folder"):
        raise ConnectionRefusedError(111, "Connection refused")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_disk_full_for_a_device_and_for_standard_output(glip_export, tiny_bundle: Path) -> None:
    code, _, err = glip_export("info", tiny_bundle, "--json", "/dev/full")
    assert code == 2 and err == "glip-export: cannot write /dev/full: No space left on device\n"
    for words in (["info", tiny_bundle], ["--version"], ["detect", "--help"]):
        with open("/dev/full", "w", encoding="utf-8") as full:
            command = [sys.executable, "-m", "glip_export.cli", *map(str, words)]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, encoding="utf-8")
        assert done.returncode == 2 and done.stderr == "glip-export: No space left on device: standard output\n"


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise there")
def test_a_closed_pipe_ends_a_command_quietly(tiny_bundle: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "glip_export.cli", "info", str(tiny_bundle)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, encoding="utf-8")
    os.close(writer)
    assert done.returncode == 1 and done.stderr == ""
