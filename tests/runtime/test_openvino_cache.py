"""The cache of compiled graphs: read without the model, never mixed up, kept within its size."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from glip_export.bundle import Bundle
from glip_export.runtime import cache

openvino = pytest.importorskip("openvino")
openvino_cache = pytest.importorskip("glip_export.runtime.openvino_cache")
CompiledCache = openvino_cache.CompiledCache


def compiled(core: Any, factor: float) -> Any:
    """A graph y = x * weight, whose weight is large enough to be read where it lies."""
    from openvino import opset8

    x = opset8.parameter([1, 4096], np.float32, "x")
    y = opset8.multiply(x, opset8.constant(np.full((1, 4096), factor, np.float32)))
    return core.compile_model(openvino.Model([y], [x], "graph"), "CPU")


def answer(model: Any) -> float:
    return float(next(iter(model(np.ones((1, 4096), np.float32)).values()))[0, 0])


def test_what_was_written_is_read_and_what_was_cut_is_not(tmp_path: Path) -> None:
    core, kept = openvino.Core(), CompiledCache(tmp_path)
    assert kept.read(core, "graph", {}) is None
    kept.write("graph", compiled(core, 3.0))
    kept.write("graph", compiled(core, 5.0))  # takes the place of the first
    (blob,) = tmp_path.iterdir()
    found = CompiledCache(tmp_path)
    model = found.read(core, "graph", {})
    assert model is not None and answer(model) == 5.0 and len(found.mapped) == 1
    assert found.read(core, "grap", {}) is None
    blob.write_bytes(blob.read_bytes()[:-1])
    assert CompiledCache(tmp_path).read(core, "graph", {}) is None
    blob.write_bytes(b"x" * (blob.stat().st_size + 1))
    assert CompiledCache(tmp_path).read(core, "graph", {}) is None  # OpenVINO's own refusal


def test_a_folder_for_each_way_to_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_like: SimpleNamespace
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    one: Any = demo_like

    def folder(compiled_with: str = "2 threads") -> Path:
        made = CompiledCache.of(one, compiled_with)
        assert made is not None
        return made.folder

    first = folder()
    assert folder() == first
    assert folder("1 thread") != first
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    hidden = folder()
    assert hidden != first
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    one.files["a.onnx"].sha256 = "1"
    assert folder() != first
    one.files["a.onnx"].sha256 = "0"
    monkeypatch.setattr(openvino_cache, "_sources", lambda: "others")
    assert folder() != first


@pytest.fixture
def demo_like() -> SimpleNamespace:
    graph = SimpleNamespace(name="a", file="a.onnx", data=())
    return SimpleNamespace(graphs={"a": graph}, files={"a.onnx": SimpleNamespace(sha256="0")})


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(("newest", "middle", "oldest")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "graph.100.blob").write_bytes(b"0" * 100)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    CompiledCache(tmp_path / "oldest").used()
    monkeypatch.setattr(cache, "MOST_BYTES", 250)
    cache.make_room(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["newest", "oldest"]


def test_a_start_from_the_cache_reads_no_graph(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glip_export.runtime.openvino_session import OpenVinoSession

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = Bundle.open(tiny_bundle)
    OpenVinoSession(bundle, threads=1)
    monkeypatch.setattr("glip_export.runtime.openvino_session.use_kernels", lambda *_: pytest.fail("a graph was read"))
    session = OpenVinoSession(bundle, threads=1)
    assert session.text_encoder(np.ones((1, 4), np.int64), np.ones((1, 4), np.int64)).shape[:2] == (1, 4)
