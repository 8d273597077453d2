"""glip-export bake, and what the other commands do with what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CAT, refused

from glip_export.graphs.bake import bake
from glip_export.prompt import Prompt


@pytest.fixture(scope="module")
def baked(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(tiny_bundle, Prompt.of("cat. remote control"), tmp_path_factory.mktemp("baked") / "two.onnx").file.path


def test_bake_and_detect(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\nremote control\n")
    code, out, _ = glip_export(
        "bake", tiny_bundle, "--names", "names.txt", "--output", "out.onnx", "--image-size", "160x224"
    )
    assert code == 0 and "2 names" in out and "float32 (B, 3, 160, 224)" in out
    code, out, _ = glip_export("detect", CAT, "--bundle", "out.onnx", "--json", "found.json", "--threshold", 0)
    found = json.loads((tmp_path / "found.json").read_text())
    assert code == 0 and found["prompt"] == ["cat", "remote control"]
    assert (tmp_path / "detections" / "cat.jpg").is_file()


def test_info(glip_export, tmp_path: Path, baked: Path) -> None:
    code, out, _ = glip_export("info", baked, "--json", "info.json")
    assert code == 0 and "cat, remote control" in out and "images float32 (B, 3, H, W)" in out
    assert json.loads((tmp_path / "info.json").read_text())["names"] == ["cat", "remote control"]


def test_a_changed_byte_is_refused(glip_export, tmp_path: Path, baked: Path) -> None:
    data = bytearray(baked.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "changed.onnx").write_bytes(data)
    for words in (("detect", CAT, "--bundle"), ("info",)):
        refused(glip_export(*words, "changed.onnx"), "changed.onnx", "damaged or was changed")


@pytest.mark.parametrize("command", [("verify",), ("serve",), ("eval", "coco", "--bundle")])
def test_what_takes_a_bundle_alone(glip_export, tmp_path: Path, baked: Path, command: tuple[str, ...]) -> None:
    extra = ("--images", tmp_path, "--annotations", tmp_path / "none.json") if "coco" in command else ()
    refused(glip_export(*command, baked, *extra))


def test_mistakes(glip_export, tmp_path: Path, tiny_bundle: Path, baked: Path) -> None:
    refused(glip_export("bake", tiny_bundle), "one of --prompt and --names")
    refused(glip_export("bake", tiny_bundle, "--prompt", "..."), "prompt")
    refused(glip_export("bake", tiny_bundle, "--prompt", "cat", "--fp16", "--int8"), "one precision")
    refused(glip_export("bake", tiny_bundle, "--prompt", "cat", "--int8", "--output", "x.onnx"), "quantize")
    refused(glip_export("bake", tiny_bundle, "--prompt", "cat", "--output", tiny_bundle / "fusion_head.onnx"), "reads")
    refused(glip_export("bake", tmp_path / "none", "--prompt", "cat", "--output", "x.onnx"), "no bundle")
    refused(glip_export("bake", baked, "--prompt", "cat", "--output", "x.onnx"), "takes the bundle")
    refused(glip_export("detect", CAT, "--bundle", baked, "--prompt", "cat"), "baked model")
    refused(glip_export("detect", CAT, "--bundle", baked, "--backend", "torch"), "onnxruntime")
    assert not (tmp_path / "x.onnx").exists()
