"""glip-export detect: what it writes, and what it refuses in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import CAT, refused
from PIL import Image

from glip_export import Detector


def test_detect_writes_pictures_and_json(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    code, out, _ = glip_export(
        "detect",
        CAT,
        "--prompt",
        "cat. remote control",
        "--bundle",
        tiny_bundle,
        "--output",
        "out",
        "--json",
        "out.json",
        "--html",
        "out.html",
    )
    assert code == 0 and "cat.jpg" in out and "out.html" in out
    assert (tmp_path / "out.html").read_text(encoding="utf-8").count("<figure") == 1
    with Image.open(CAT) as given, Image.open(tmp_path / "out" / "cat.jpg") as drawn:
        assert drawn.size == given.size
    document = json.loads((tmp_path / "out.json").read_text())
    (result,) = document["results"]
    assert document["prompt"] == "cat. remote control" and result["file"] == str(CAT) and document["errors"] == []
    boxes = np.array([detection["box"] for detection in result["detections"]])
    assert len(boxes) > 10 and {d["name"] for d in result["detections"]} <= {"cat", "remote control"}
    assert (boxes >= 0).all() and (boxes[:, 2] <= given.width).all()


def test_detect_takes_the_newest_bundle(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    refused(glip_export("detect", CAT, "--prompt", "cat"), "glip-export onnx")
    (tmp_path / "engines").mkdir()
    shutil.copytree(tiny_bundle, tmp_path / "engines" / "tiny")
    assert glip_export("detect", CAT, "--prompt", "cat")[0] == 0
    assert glip_export("info")[0] == 0


@pytest.mark.parametrize("agnostic", [False, True])
def test_detect_is_the_detectors(glip_export, tmp_path: Path, tiny_bundle: Path, agnostic: bool) -> None:
    rocket = CAT.with_name("rocket.jpg")
    words = ["--class-agnostic-nms"] if agnostic else []
    asked = ["--prompt", "cat. dog. rocket", "--bundle", tiny_bundle, "--threads", "1", "--chunk", "2"]
    assert glip_export("detect", CAT, rocket, *asked, *words, "--no-draw", "--json", "found.json")[0] == 0
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    detector = Detector.open(tiny_bundle, "auto", threads=1)
    right = detector.detect([CAT, rocket], "cat. dog. rocket", chunk=2, class_agnostic_nms=agnostic)
    assert [one.to_dict()["detections"] for one in right] == [result["detections"] for result in results]


def truncated(path: Path) -> None:
    path.write_bytes(CAT.read_bytes()[:5000])


def one_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path, "PNG")


def bomb(path: Path) -> None:
    Image.new("1", (30000, 30000)).save(path, "PNG")


@pytest.mark.parametrize("make", [lambda path: path.write_text("no picture"), truncated, one_pixel, bomb, Path.mkdir])
def test_detect_refuses_bad_pictures(glip_export, tmp_path: Path, tiny_bundle: Path, make) -> None:
    make(tmp_path / "bad.png")
    asked = ["--prompt", "cat", "--bundle", tiny_bundle, "--json", "found.json"]
    refused(glip_export("detect", "bad.png", *asked), "bad.png")
    refused(glip_export("detect", CAT, "bad.png", "--strict", *asked), "bad.png")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


@pytest.mark.parametrize("prompt", ["", "   ", ". . .", "..."])
def test_detect_refuses_empty_prompts(glip_export, tiny_bundle: Path, prompt: str) -> None:
    refused(glip_export("detect", CAT, "--prompt", prompt, "--bundle", tiny_bundle), "prompt")


def test_unknown_words_and_backends(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    refused(glip_export("detect", CAT, "--prompt", "cat", "--bundle", tiny_bundle, "--backend", "tpu"), "tpu")
    (tmp_path / "names.txt").write_text("cat")
    for both in ([], ["--prompt", "cat", "--names", "names.txt"]):
        refused(glip_export("detect", CAT, *both, "--bundle", tiny_bundle), "--prompt", "--names")
    assert glip_export("export")[0] == 2


@pytest.mark.parametrize("address", ["http://h:port", "http://[::1", "grpc://", "grpc:///", "localhost:8000"])
def test_an_address_that_is_none_is_one_line(glip_export, address: str) -> None:
    code, out, err = glip_export("detect", CAT, "--prompt", "cat", "--no-draw", "--server", address)
    assert code == 2 and out == "" and err.startswith(f"glip-export: {address!r} is no server's address: give one")
    assert len(err.splitlines()) == 1


def test_a_password_in_an_address_is_refused_and_not_told(glip_export) -> None:
    result = glip_export("detect", CAT, "--prompt", "cat", "--no-draw", "--server", "http://me:secret@127.0.0.1:9")
    refused(result, "no user and password", "token")
    assert "secret" not in result[2]
