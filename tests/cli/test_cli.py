"""The command line: what it writes, and that a mistake is one clear line, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pretend_builder import Pretend

from glip_export.cli import main

CAT = Path(__file__).parents[2] / "glip_export" / "data" / "pictures" / "cat.jpg"


class Bomb:
    """Would run code if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("open('exploded', 'w')",))


@pytest.fixture
def glip_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command line in an empty folder: its exit code, output and error output."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["glip-export", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        streams = capsys.readouterr()
        return int(stopped.value.code or 0), streams.out, streams.err

    return run


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Exit code 2, one line that holds all the words, no traceback."""
    code, out, err = result
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2, (code, out, err)
    assert len(lines) == 1 and "Traceback" not in out + err, err
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize(
    "command", [[], ["onnx"], ["trt"], ["verify"], ["detect"], ["info"], ["triton"], ["serve"], ["eval", "coco"]]
)
def test_help_is_instant(command: list[str]) -> None:
    def seconds() -> float:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "glip_export.cli", *command, "--help"], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0 and "Usage" in done.stdout
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 0.5 * 2  # 0.5 s; twice that beside another test on a busy core


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, ("weights.pth", "no such")),
        (lambda path: path.mkdir(), ("weights.pth", "directory")),
        (lambda path: path.write_bytes(b""), ("weights.pth", "empty")),
        (lambda path: path.write_bytes(b"\x89PNG nothing of the kind" * 99), ("weights.pth",)),
        (lambda path: path.write_bytes(pickle.dumps({"model": Bomb()})), ("weights.pth", "pickled code")),
    ],
)
def test_onnx_refuses_bad_weights(glip_export, tmp_path: Path, make, words) -> None:
    make(tmp_path / "weights.pth")
    before = sorted(tmp_path.rglob("*"))
    refused(glip_export("onnx", "--weights", "weights.pth", "--output", "engines/x"), *words)
    assert sorted(tmp_path.rglob("*")) == before  # nothing written, nothing executed


def test_onnx_refuses_truncated_weights(glip_export, tmp_path: Path, oracle_tiny: Path) -> None:
    data = (oracle_tiny / "weights.pth").read_bytes()
    for length in (10, 4000, len(data) // 2, len(data) - 10):
        (tmp_path / "cut.pth").write_bytes(data[:length])
        refused(glip_export("onnx", "--weights", "cut.pth"), "cut.pth")
    assert not (tmp_path / "engines").exists()


def test_onnx_refuses_another_models_weights(glip_export, tmp_path: Path, oracle_tiny: Path) -> None:
    import torch

    torch.save({"model": {"module.conv1.weight": torch.zeros(4, 3, 3, 3)}}, tmp_path / "resnet.pth")
    refused(glip_export("onnx", "--weights", "resnet.pth"), "--config")
    refused(
        glip_export("onnx", "--weights", "resnet.pth", "--config", oracle_tiny / "config.yaml"), "LANG_DIM"
    )  # its BERT is not bert-base
    tiny = ["--config", oracle_tiny / "config.yaml", "--bert-config", oracle_tiny / "bert_config.json"]
    refused(glip_export("onnx", "--weights", "resnet.pth", *tiny), "resnet.pth", "missing")


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("MODEL: [", ("bad.yaml",)),
        ("just a text", ("bad.yaml",)),
        ("MODEL:\n  META_ARCHITECTURE: GeneralizedVLRCNN\n  SWINT:\n    EMBED_DIM: wide\n", ("EMBED_DIM",)),
        ("MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n", ("META_ARCHITECTURE",)),
    ],
)
def test_onnx_refuses_a_wrong_yaml(glip_export, tmp_path: Path, oracle_tiny: Path, yaml: str, words) -> None:
    (tmp_path / "bad.yaml").write_text(yaml)
    refused(glip_export("onnx", "--weights", oracle_tiny / "weights.pth", "--config", "bad.yaml"), *words)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["MODEL.DYHEAD.SCORE_AGGG", "MEAN"], ("SCORE_AGGG", "SCORE_AGG")),
        (["MODEL.DYHEAD.SCORE_AGG", "MEEN"], ("SCORE_AGG", "MEEN")),
        (["MODEL.ATSS.PRE_NMS_TOP_N", "many"], ("PRE_NMS_TOP_N",)),
        (["MODEL.DYHEAD.SCORE_AGG"], ("SCORE_AGG",)),
        (["MODEL.DYHEAD.FUSE_CONFIG.TYPE", "MHA-S"], ("TYPE", "MHA-S")),
        (["--wieghts", "x"], ("--wieghts",)),
    ],
)
def test_onnx_refuses_wrong_overrides(glip_export, tmp_path: Path, oracle_tiny: Path, overrides, words) -> None:
    given = ["--weights", oracle_tiny / "weights.pth", "--config", oracle_tiny / "config.yaml"]
    given += ["--bert-config", oracle_tiny / "bert_config.json"]
    refused(glip_export("onnx", *given, "--output", "engines/x", *overrides), *words)
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("size", ["800", "800x", "axb", "800x1333", "0x0", "-64x64"])
def test_onnx_refuses_wrong_image_sizes(glip_export, oracle_tiny: Path, size: str) -> None:
    refused(glip_export("onnx", "--weights", oracle_tiny / "weights.pth", f"--image-size={size}"), "size")


def test_onnx_refuses_to_overwrite_a_folder_of_the_users(glip_export, tmp_path: Path, oracle_tiny: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mother.jpg").write_bytes(b"dear")
    given = ["--weights", oracle_tiny / "weights.pth", "--config", oracle_tiny / "config.yaml"]
    given += ["--bert-config", oracle_tiny / "bert_config.json", "--output", "photos"]
    refused(glip_export("onnx", *given), "photos")
    assert (tmp_path / "photos" / "mother.jpg").read_bytes() == b"dear"


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
    with Image.open(CAT) as given, Image.open(tmp_path / "out" / "cat.png") as drawn:
        assert drawn.size == given.size
    document = json.loads((tmp_path / "out.json").read_text())
    (result,) = document["results"]
    assert document["prompt"] == "cat. remote control" and result["file"] == str(CAT)
    boxes = np.array([detection["box"] for detection in result["detections"]])
    assert len(boxes) > 10 and {d["name"] for d in result["detections"]} <= {"cat", "remote control"}
    assert (boxes >= 0).all() and (boxes[:, 2] <= given.width).all()


def test_detect_takes_the_newest_bundle(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    refused(glip_export("detect", CAT, "--prompt", "cat"), "glip-export onnx")
    (tmp_path / "engines").mkdir()
    shutil.copytree(tiny_bundle, tmp_path / "engines" / "tiny")
    assert glip_export("detect", CAT, "--prompt", "cat")[0] == 0
    assert glip_export("info")[0] == 0


def truncated(path: Path) -> None:
    path.write_bytes(CAT.read_bytes()[:5000])


def one_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path, "PNG")


def bomb(path: Path) -> None:
    Image.new("1", (30000, 30000)).save(path, "PNG")


@pytest.mark.parametrize("make", [lambda path: path.write_text("no picture"), truncated, one_pixel, bomb, Path.mkdir])
def test_detect_refuses_bad_pictures(glip_export, tmp_path: Path, tiny_bundle: Path, make) -> None:
    make(tmp_path / "bad.png")
    refused(glip_export("detect", CAT, "bad.png", "--prompt", "cat", "--bundle", tiny_bundle), "bad.png")
    assert not (tmp_path / "detections").exists()


@pytest.mark.parametrize("prompt", ["", "   ", ". . .", "..."])
def test_detect_refuses_empty_prompts(glip_export, tiny_bundle: Path, prompt: str) -> None:
    refused(glip_export("detect", CAT, "--prompt", prompt, "--bundle", tiny_bundle), "prompt")


def changed_byte(bundle: Path) -> None:
    data = bytearray((bundle / "fusion_head.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "fusion_head.onnx.data").write_bytes(data)


def manifest(bundle: Path, change) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    change(content)
    (bundle / "manifest.json").write_text(json.dumps(content))


def newer(bundle: Path) -> None:
    manifest(bundle, lambda content: content.update(format=99))


def outside(bundle: Path) -> None:
    def change(content) -> None:
        content["graphs"]["fusion_head"]["file"] = "../fusion_head.onnx"
        content["files"]["../fusion_head.onnx"] = content["files"].pop("fusion_head.onnx")

    shutil.copy(bundle / "fusion_head.onnx", bundle.parent)
    manifest(bundle, change)


def missing_graph(bundle: Path) -> None:
    manifest(bundle, lambda content: content["graphs"].pop("text_encoder"))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (changed_byte, "SHA-256"),
        (newer, "newer"),
        (outside, "fusion_head.onnx"),
        (missing_graph, "text_encoder"),
        (lambda bundle: (bundle / "vision_backbone.onnx").unlink(), "vision_backbone.onnx"),
        (lambda bundle: (bundle / "manifest.json").write_text("{"), "JSON"),
        (shutil.rmtree, "bundle"),
    ],
)
def test_bad_bundles_are_refused(glip_export, tmp_path: Path, tiny_bundle: Path, damage, word: str) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    damage(tmp_path / "bundle")
    for command in (["detect", CAT, "--prompt", "cat", "--bundle", "bundle"], ["verify", "bundle"]):
        refused(glip_export(*command), word)


def test_unknown_words_and_backends(glip_export, tiny_bundle: Path) -> None:
    refused(glip_export("detect", CAT, "--prompt", "cat", "--bundle", tiny_bundle, "--backend", "tpu"), "tpu")
    code, _, err = glip_export("detect", CAT)
    assert code == 2 and "--prompt" in err
    assert glip_export("export")[0] == 2


def test_verify_passes_and_writes_json(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    code, out, _ = glip_export("verify", tiny_bundle, "--quick", "--trace", "--json", "parity.json")
    assert code == 0 and "PASSED" in out and "module outputs" in out
    assert json.loads((tmp_path / "parity.json").read_text())["passed"] is True


def test_verify_fails_with_exit_code_1(glip_export, tmp_path: Path, tiny_bundle: Path, monkeypatch) -> None:
    from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession

    right = OnnxRuntimeSession.vision_backbone

    def wrong(session, images):
        p3, *rest = right(session, images)
        return (p3 * 1.01, *rest)

    monkeypatch.setattr(OnnxRuntimeSession, "vision_backbone", wrong)
    code, out, _ = glip_export("verify", tiny_bundle, "--quick", "--json", "parity.json")
    assert code == 1 and "FAILED" in out and "p3" in out
    assert json.loads((tmp_path / "parity.json").read_text())["passed"] is False


def test_info_as_json(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    code, out, _ = glip_export("info", tiny_bundle, "--json", "info.json")
    assert code == 0 and "fusion_head" in out
    assert json.loads((tmp_path / "info.json").read_text())["config"]["swin"]["embed_dim"] == 24


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
    assert code == 0 and "tensorrt_rtx 1.7.1.116, fp16, for GPUs from Ampere on" in out
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
        (["--deform-conv", "native"], ("deform_conv 'native'", "gridsample")),
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
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
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


def test_version(glip_export) -> None:
    code, out, _ = glip_export("--version")
    assert code == 0 and out.startswith("glip-export ")
