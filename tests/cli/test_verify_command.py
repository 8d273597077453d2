"""glip-export verify and info, and bundles that no verb takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import CAT, refused


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
