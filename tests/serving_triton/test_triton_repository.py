"""The repository on disk: whole, standing alone, and refused where it would harm."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glip_export import Bundle
from glip_export.bundle.files import sha256_file
from glip_export.errors import BackendError, BundleError, GlipExportError
from glip_export.graphs.contracts import GRAPHS
from glip_export.serving.triton import repository as module
from glip_export.serving.triton.repository import requirements, write_repository
from glip_export.serving.triton.settings import TritonSettings


def test_what_is_in_it(repository: Path, tiny_bundle: Path) -> None:
    assert {path.name for path in repository.iterdir() if path.is_file()} == {
        "README.md",
        "Dockerfile",
        "requirements.txt",
        "run_server.py",
    }
    copied = Bundle.open(repository / "glip" / "1" / "bundle")  # hashes are checked
    assert copied.files == Bundle.open(tiny_bundle, verify=False).files
    for path in repository.rglob("*"):
        assert not path.is_symlink() and (path.is_dir() or path.stat().st_nlink == 1)
    readme = (repository / "README.md").read_text()
    assert "$" not in re.sub(r'"\$PWD"', "", readme) and "| `glip_gpu_fusion_head` |" in readme


def test_graphs_and_their_hashes(repository: Path) -> None:
    hashes = json.loads((repository / "glip_gpu" / "1" / "bundle" / "graphs.json").read_text())
    assert set(hashes) == {
        f"glip_gpu_{graph}/1/{name}" for graph in GRAPHS for name in ("model.onnx", f"{graph}.onnx.data")
    }
    assert all(sha256_file(repository / name) == sha256 for name, sha256 in hashes.items())


def test_it_needs_nothing_of_this_installation(repository: Path, tmp_path: Path) -> None:
    """The source beside model.py is what is imported, even where another glip_export comes first."""
    (tmp_path / "glip_export").mkdir()
    (tmp_path / "glip_export" / "__init__.py").write_text("raise ImportError('another one')")
    code = "import sys, model; print(sys.modules['glip_export'].__file__, *(m for m in sys.modules if m == 'torch'))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{repository / 'glip' / '1'}"},
    )
    assert found.stdout.split() == [str(repository / "glip" / "1" / "glip_export" / "__init__.py")]


def test_whole_or_not_at_all(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_root", fail)
    with pytest.raises(KeyboardInterrupt):
        write_repository(tiny_bundle, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_the_users_is_replaced(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_repository(tiny_bundle, tmp_path / "out")  # an empty folder will do
    (tmp_path / "out" / "glip" / "config.pbtxt").write_text("edited")
    with pytest.raises(GlipExportError, match="not empty"):
        write_repository(tiny_bundle, tmp_path / "out")
    assert (tmp_path / "out" / "glip" / "config.pbtxt").read_text() == "edited"
    with pytest.raises(GlipExportError, match="is a file"):
        write_repository(tiny_bundle, tmp_path / "out" / "README.md")


def test_a_damaged_bundle_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    data = tmp_path / "bundle" / "fusion_head.onnx.data"
    data.write_bytes(b"x" + data.read_bytes()[1:])
    with pytest.raises(BundleError, match="SHA-256"):
        write_repository(tmp_path / "bundle", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_backends_that_cannot_serve(tiny_bundle: Path, tmp_path: Path) -> None:
    for backend, words in [("torch", "checkpoint"), ("tpu", "no backend 'tpu'")]:
        with pytest.raises(BackendError, match=words):
            write_repository(tiny_bundle, tmp_path / "out", TritonSettings(backend))


def test_requirements() -> None:
    def names(backend: str) -> set[str]:
        return {re.split("[<>=;]", line)[0] for line in requirements(backend)}

    common = {"numpy", "pillow", "tokenizers"}
    assert names("onnxruntime") == {*common, "onnxruntime"}
    assert names("openvino:bf16") == {*common, "onnxruntime", "openvino", "onnx-ir"}
    assert names("onnxruntime:cuda") == {*common, "onnxruntime-gpu"}
    assert {*common, "tensorrt", "cuda-bindings"} <= names("tensorrt:fp16")
    assert not any("extra" in line for line in requirements("openvino"))
