"""The graphs made for ONNX Runtime's providers: in fp16, and in TensorRT's own operators; kept, and used again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
from runtime.cuda.fake_driver import FakeDriver
from runtime.deferred_onnxruntime import DeferredOnnxRuntime, in_its_place

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.config import GlipConfig
from glip_export.errors import BackendError
from glip_export.graphs.contracts import GRAPHS, graphs_of
from glip_export.parity.cases import built_in_cases
from glip_export.parity.ladder import climb
from glip_export.runtime import onnxruntime_graphs
from glip_export.runtime.backends import open_session
from glip_export.runtime.onnxruntime_cuda_session import OnnxRuntimeCudaSession
from glip_export.runtime.onnxruntime_graphs import graph_files
from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession

SPECS = graphs_of(GlipConfig())  # of the published models


@pytest.fixture
def bundle(tiny_copy: Path) -> Bundle:
    return Bundle.open(tiny_copy, verify=False)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> DeferredOnnxRuntime:
    return in_its_place(FakeDriver(), monkeypatch)


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that were made, in turn."""
    made: list[str] = []
    real = onnxruntime_graphs._convert

    def convert(bundle: Bundle, spec: Any, precision: str, native: bool) -> Any:
        made.append(spec.name)
        return real(bundle, spec, precision, native)

    monkeypatch.setattr(onnxruntime_graphs, "_convert", convert)
    return made


def test_a_bundles_own_graphs_are_taken_as_they_are(bundle: Bundle) -> None:
    with graph_files(bundle, "fp32") as paths:
        assert paths == {name: bundle.graph_path(name) for name in GRAPHS}
    assert not (bundle.path / "cache").exists()


def test_fp16_is_made_once_and_kept_with_its_weights_beside(bundle: Bundle, conversions: list[str]) -> None:
    for _ in range(2):
        with graph_files(bundle, "fp16") as paths:
            found = dict(paths)
    assert conversions == list(GRAPHS)
    for name, spec in SPECS.items():
        assert found[name].is_relative_to(bundle.path.resolve() / "cache" / "onnxruntime-fp16")
        data = found[name].with_name(f"{name}.onnx.data")
        assert found[name].stat().st_size < data.stat().st_size < 0.7 * bundle.path.joinpath(data.name).stat().st_size
        graph = onnx_ir.load(found[name]).graph
        contract = [(tensor.name, tensor.dtype) for tensor in (*spec.inputs, *spec.outputs)]
        assert [(value.name, value.dtype.numpy().name) for value in (*graph.inputs, *graph.outputs)] == contract
        products = [node for node in graph if node.op_type in ("Conv", "DeformConv", "MatMul")]
        low = [node for node in products if node.outputs[0].dtype == onnx_ir.DataType.FLOAT16]
        assert len(low) > 0.8 * len(products)  # the rest are islands
        assert all(node in low for node in products if node.op_type == "DeformConv")
    assert Bundle.open(bundle.path).files == bundle.files  # the cache is no part of it


def test_other_weights_or_sources_make_others(
    bundle: Bundle, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with graph_files(bundle, "fp32", native=True):
        pass
    name = bundle.graphs["fusion_head"].file
    other = dataclasses.replace(bundle.files[name], sha256="0" * 64)
    with graph_files(dataclasses.replace(bundle, files={**bundle.files, name: other}), "fp32", native=True):
        pass
    monkeypatch.setattr(onnxruntime_graphs, "_passes", lambda: "a later release")
    with graph_files(bundle, "fp32", native=True):
        pass
    assert conversions == ["fusion_head"] * 3


def test_where_nothing_can_be_written_they_are_made_for_the_moment(
    bundle: Bundle, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_graphs, "cache_folder", lambda *_: None)
    with graph_files(bundle, "fp16") as paths:
        found = dict(paths)
        assert all(path.is_file() for path in found.values())
    assert not any(path.exists() for path in found.values()) and not (bundle.path / "cache").exists()


def test_a_folder_that_fills_up_is_left_for_the_temporary_one(
    bundle: Bundle, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnxruntime_graphs._save

    def save(model: Any, path: Path) -> None:
        if path.is_relative_to(bundle.path.resolve()):
            raise OSError(28, "No space left on device")
        real(model, path)

    monkeypatch.setattr(onnxruntime_graphs, "_save", save)
    with graph_files(bundle, "fp32", native=True) as paths:
        assert paths["fusion_head"].is_file() and not paths["fusion_head"].is_relative_to(bundle.path.resolve())
    assert not [path for path in (bundle.path / "cache").rglob("*") if path.is_file()]


def test_only_an_fp32_bundle_is_converted(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "precision", property(lambda self: "int8"))
    told = pytest.raises(BackendError, match=r"tiny is int8; fp16 graphs are made of an fp32 bundle")
    with told, graph_files(bundle, "fp16"):
        pass
    with graph_files(bundle, "int8") as paths:
        assert paths["fusion_head"] == bundle.graph_path("fusion_head")


def test_fp16_on_cuda_gives_the_contracts_types_and_near_the_same(
    bundle: Bundle, runtime: DeferredOnnxRuntime, tiny_io: dict[str, np.ndarray]
) -> None:
    session = OnnxRuntimeCudaSession(bundle, 1, "cuda:fp16", driver=runtime.driver)
    runtime.stream = session.stream
    assert (session.name, session.provider, session.precision) == ("onnxruntime:cuda:fp16", "cuda", "fp16")
    assert session.describe()["precision"] == "fp16"
    reference = OnnxRuntimeSession(bundle, 1, "cpu")
    pictures = [tiny_io["raw_image0"]]
    ours, theirs = (Detector(one, bundle.config) for one in (session, reference))
    for one, other in zip(ours.encode_images(pictures).features, theirs.encode_images(pictures).features, strict=True):
        assert one.dtype == np.float32
        difference = np.abs(np.asarray(one) - other).max() / np.sqrt(np.mean(other**2))
        assert 0 < difference < 0.05
    (found,), (expected,) = ours.detect(pictures, "cat. dog"), theirs.detect(pictures, "cat. dog")
    assert abs(found.scores[0] - expected.scores[0]) < 0.02
    assert found.scores.dtype == np.float32 and found.labels.dtype == np.int64


@pytest.mark.parametrize("on_device", [False, True])
def test_tensorrts_form_of_the_fusion_head_gives_the_same(
    bundle: Bundle, runtime: DeferredOnnxRuntime, on_device: bool
) -> None:
    """Run for real, by the session's own way; NMS in NumPy."""
    reference = OnnxRuntimeSession(bundle, 1, "cpu")
    if on_device:
        session: Any = OnnxRuntimeCudaSession(bundle, 1, "tensorrt", driver=runtime.driver)
        runtime.stream = session.stream
    else:
        session = OnnxRuntimeSession(bundle, 1, "tensorrt")
    given = runtime.paths[-1]
    assert {node.op_type for node in onnx_ir.load(given).graph}.isdisjoint({"DeformConv", "NonMaxSuppression"})
    assert [path.name for path in runtime.paths[-3:-1]] == ["text_encoder.onnx", "vision_backbone.onnx"]
    assert all(path.parent == bundle.path for path in runtime.paths[-3:-1])  # the others are the bundle's own
    result = climb(reference, session, bundle.config, built_in_cases(bundle.config, quick=True))
    assert result.failures() == []


def test_words(bundle: Bundle) -> None:
    for word in ("cuda:bf16", "tensorrt:fp16", "cpu:fp16"):
        with pytest.raises(BackendError, match=f"there is no backend 'onnxruntime:{word}': choose .*cuda:fp16"):
            open_session(bundle, f"onnxruntime:{word}")
    with pytest.raises(BackendError, match=r"ONNX Runtime has no 'cuda:int8': choose one of cpu, cuda, cuda:fp32"):
        OnnxRuntimeSession(bundle, provider="cuda:int8")
