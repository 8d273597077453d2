"""glip-export trt: its check, what it builds and says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import refused
from pretend_builder import Pretend


def test_trt_checks_builds_and_shows(glip_export, tmp_path: Path, tiny_bundle: Path, monkeypatch) -> None:
    pretend = Pretend(monkeypatch)
    shutil.copytree(tiny_bundle, tmp_path / "engines" / "tiny")
    code, out, _ = glip_export("trt", "--json", "trt.json")  # the newest bundle, fp16
    assert code == 0 and "fp16 against fp32 on the CPU: " in out and "found again" in out
    assert "Built text_encoder, vision_backbone, fusion_head in engines/tiny/tensorrt_rtx-fp16" in out
    assert "99.0 % float16" in out and "1.0 % float32" in out and "100.0 % float16" in out
    assert "together" in out
    assert "B 1/1/4, H 64/800/1344, W 64/1216/1344" in out and "T 1/16/64" in out
    written = json.loads((tmp_path / "trt.json").read_text())
    assert written["built"] == ["text_encoder", "vision_backbone", "fusion_head"] and written["precision"] == "fp16"
    assert written["graphs"]["fusion_head"]["file"] == "fusion_head.engine" and "found again" in written["check"]
    pretend.asked.clear()
    code, out, _ = glip_export("trt", "engines/tiny")
    assert code == 0 and "Nothing to build" in out and "on the CPU" not in out and not pretend.asked
    code, out, _ = glip_export("trt", "engines/tiny", "--fp32", "--nms", "host", "--recipe", "jetson")
    assert code == 2 and not pretend.asked  # jetson's T goes up to 128; see the next test
    code, out, _ = glip_export("trt", "engines/tiny", "--fp32", "--nms", "host", "--flavor", "tensorrt")
    assert code == 0 and "on the CPU" not in out and "NVIDIA L4" in out  # fp32 has nothing to compare with
    code, out, _ = glip_export("info", "engines/tiny", "--json", "info.json")
    assert code == 0 and "tensorrt_rtx 1.7.1.116, fp16, for compute capability 8.6, 8.9, 12.0 and 12.1;" in out
    assert "tensorrt 10.13.0, fp32, for NVIDIA L4; deform_conv plugin, nms host" in out
    assert sorted(json.loads((tmp_path / "info.json").read_text())["engines"]) == ["tensorrt-fp32", "tensorrt_rtx-fp16"]


def test_trt_builds_nothing_if_the_check_fails(glip_export, tmp_path: Path, tiny_bundle: Path, monkeypatch) -> None:
    from glip_export.graphs import precision

    pretend, convert = Pretend(monkeypatch), precision.convert

    def wrong(model, spec, word):
        graph = convert(model, spec, word)
        for value in graph.graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype.name == "FLOAT16":
                value.const_value = type(value.const_value)(-value.const_value.numpy())
        return graph

    monkeypatch.setattr(precision, "convert", wrong)
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
    code, out, _ = glip_export("trt", "tiny")
    assert code == 1 and "nothing was built" in out and "--no-check" in out and not pretend.asked
    assert not (tmp_path / "tiny" / "tensorrt_rtx-fp16").exists()
    assert glip_export("trt", "tiny", "--no-check")[0] == 0 and len(pretend.asked) == 3


def test_trt_warns_of_a_precision_that_finds_too_little(
    glip_export, tmp_path: Path, tiny_bundle: Path, monkeypatch
) -> None:
    from glip_export.parity import recall

    pretend = Pretend(monkeypatch)
    monkeypatch.setattr(recall.RecallDiff, "recall", property(lambda diff: 0.9))
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
    code, out, _ = glip_export("trt", "tiny")
    assert code == 0 and "Less than 95% is found again" in out and len(pretend.asked) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fp16", "--fp32"], ("one precision a build, not --fp16 and --fp32",)),
        (["--flavor", "rtx"], ("there is no flavor 'rtx'", "tensorrt_rtx")),
        (["--deform-conv", "native"], ("deform_conv 'native'", "gridsample or fused")),
        (["--deform-conv", "fused", "--bf16"], ("deform_conv fused is for fp16 and fp32, not bf16",)),
        (["--nms", "gpu"], ("nms 'gpu'", "host")),
        (["--recipe", "none.yaml"], ("none.yaml", "glip_t")),
        (["--recipe", "jetson"], ("jetson: T goes up to 128", "64 tokens")),
        (["--recipe", "bad.yaml"], ("bad.yaml", "there is no key profile; did you mean profiles?")),
    ],
)
def test_trt_refuses_wrong_words(glip_export, tmp_path: Path, tiny_bundle: Path, monkeypatch, words, message) -> None:
    from glip_export.trt import build
    from glip_export.trt.flavor import choose_flavor

    Pretend(monkeypatch)
    if words[0] == "--flavor":
        monkeypatch.setattr(build, "choose_flavor", choose_flavor)
    (tmp_path / "bad.yaml").write_text("profile:\n  - {B: 1}\n")
    shutil.copytree(tiny_bundle, tmp_path / "tiny", ignore=shutil.ignore_patterns("cache"))
    refused(glip_export("trt", "tiny", *words), *message)
    assert not (tmp_path / "tiny" / "cache").exists()


def test_trt_without_tensorrt_or_a_bundle(glip_export, tmp_path: Path, tiny_bundle: Path, monkeypatch) -> None:
    from glip_export.trt import flavor

    refused(glip_export("trt"), "no bundle in engines", "glip-export onnx")
    monkeypatch.setattr(flavor, "is_installed", lambda name: False)
    refused(glip_export("trt", tiny_bundle), "pip install tensorrt-rtx==1.7.1.116", "pip install tensorrt ")
    refused(glip_export("trt", tiny_bundle, "--flavor", "tensorrt"), "tensorrt is not installed: pip install tensorrt")


def test_damaged_engines_are_one_line_and_can_be_made_again(
    glip_export, tmp_path: Path, tiny_bundle: Path, monkeypatch
) -> None:
    Pretend(monkeypatch)
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
    assert glip_export("trt", "tiny", "--no-check")[0] == 0
    (tmp_path / "tiny" / "tensorrt_rtx-fp16" / "engines.json").write_text("{")
    refused(glip_export("info", "tiny"), "engines.json is damaged", "glip-export trt tiny --fp16 --flavor tensorrt_rtx")
    assert glip_export("trt", "tiny", "--fp16", "--flavor", "tensorrt_rtx", "--no-check")[0] == 0
    assert glip_export("info", "tiny")[0] == 0
