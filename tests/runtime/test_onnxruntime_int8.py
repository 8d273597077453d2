"""What ONNX Runtime's CPU provider is given of an int8 bundle: made once, kept, and the same as the bundle's own."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from command_line import CAT
from onnx_ir import DataType
from onnx_ir.tape import Tape

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.graphs.quantization.calibration import calibrate
from glip_export.graphs.quantization.int8_bundle import write_int8_bundle
from glip_export.graphs.quantized import add_initializer
from glip_export.prompt import Prompt
from glip_export.runtime import onnxruntime_graphs
from glip_export.runtime.onnxruntime_graphs import can_be_faster, graph_files
from glip_export.runtime.onnxruntime_int8 import add_biases
from glip_export.runtime.onnxruntime_terms import merge_terms

PROMPT = "cat. remote control"
vnni = pytest.mark.skipif(not can_be_faster(), reason="without VNNI the bundle's own graphs are taken")


@pytest.fixture(scope="module")
def int8_folder(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    original = Bundle.open(shutil.copytree(tiny_bundle, folder / "tiny", ignore=shutil.ignore_patterns("cache")))
    return write_int8_bundle(
        original, folder / "tiny-int8", calibrate(original, [CAT], Prompt.of(PROMPT), threads=1)
    ).path


@pytest.fixture
def bundle(int8_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """With a user's cache that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return Bundle.open(shutil.copytree(int8_folder, tmp_path / "tiny-int8"), verify=False)


def detections(bundle: Bundle) -> list[np.ndarray]:
    found = Detector.open(bundle.path, backend="onnxruntime", threads=1).detect([CAT], PROMPT)[0]
    return [found.boxes, found.scores, found.labels]


@vnni
def test_the_first_opening_and_the_second_give_the_same(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    first = detections(bundle)
    assert len(first[1])
    monkeypatch.setattr(onnxruntime_graphs, "_convert", lambda *_: pytest.fail("it was made already"))
    for one, other in zip(first, detections(bundle), strict=True):
        np.testing.assert_array_equal(one, other)
    with graph_files(bundle, "int8", cpu=True) as paths:
        assert paths["text_encoder"] == bundle.graph_path("text_encoder")
        head = onnx_ir.load(paths["fusion_head"]).graph
    counted = Counter(node.op_type for node in head)
    sampling = [node for node in head if node.op_type == "DeformConv"]
    assert sampling and all(node.attributes["group"].as_int() > 1 for node in sampling)
    assert counted["MatMulIntegerToFloat"] >= len(sampling)


@vnni
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_what_is_damaged_is_made_anew(bundle: Bundle, damage: str) -> None:
    with graph_files(bundle, "int8", cpu=True) as paths:
        head = paths["fusion_head"]
    assert not head.is_relative_to(bundle.path) and not (bundle.path / "cache").exists()
    data = head.with_name(f"{head.name}.data")
    whole = data.read_bytes()
    if damage == "gone":
        data.unlink()
    else:
        data.write_bytes(
            whole[: len(whole) // 2] + (bytes(len(whole) - len(whole) // 2) if damage == "changed" else b"")
        )
    with graph_files(bundle, "int8", cpu=True) as paths:
        assert paths["fusion_head"] == head and data.read_bytes() == whole


@vnni
def test_without_a_library_that_works_the_bundles_own_are_taken(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("onnx_ir.load", fail)
    with graph_files(bundle, "int8", cpu=True) as paths:
        assert paths == {name: bundle.graph_path(name) for name in paths}
    assert caplog.messages == [f"{bundle.path}'s own graphs are taken, which are slower: broken"]


def test_it_is_near_the_bundles_own(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made = detections(bundle)
    monkeypatch.setattr(onnxruntime_graphs, "can_be_faster", lambda: False)
    own = detections(bundle)
    np.testing.assert_allclose(made[1][:3], own[1][:3], atol=0.02)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "not here")])
def test_where_nothing_can_be_written_the_bundles_own_are_taken(
    bundle: Bundle, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(onnxruntime_graphs, "can_be_faster", lambda: True)
    monkeypatch.setattr(onnxruntime_graphs, "_save", fail)
    with graph_files(bundle, "int8", cpu=True) as paths:
        assert paths == {name: bundle.graph_path(name) for name in paths}
    with graph_files(bundle, "int8") as paths:  # for another provider
        assert paths["fusion_head"] == bundle.graph_path("fusion_head")


def test_a_mean_of_terms_is_the_same_in_fewer_passes(tiny_bundle: Path) -> None:
    """In float32, the whole head: every mean that is merged, and what follows from all of them."""
    path = Bundle.open(tiny_bundle, verify=False).graph_path("fusion_head")
    model = onnx_ir.load(path)
    onnx_ir.external_data.load_to_model(model)
    means = [node.outputs[0].name for node in model.graph if node.op_type == "ReduceMean" and stacked(node)]
    assert means
    results = []
    for merged in (False, True):
        one = model.clone()
        if merged:
            assert merge_terms(one) == len(means)
            assert not any(node.op_type == "ReduceMean" and stacked(node) for node in one.graph)
        outputs = {value.name: value for node in one.graph for value in node.outputs if value.name in means}
        one.graph.outputs[:] = [outputs[name] for name in means]
        results.append(session(one).run(None, features(one)))
    for plain, fast in zip(*results, strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-3, atol=2e-4 * np.abs(plain).max())


def stacked(node: onnx_ir.Node) -> bool:
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    return maker is not None and maker.op_type == "Concat"


def features(model: onnx_ir.Model) -> dict[str, np.ndarray]:
    """Inputs of a tiny fusion head, of a picture of 64x96."""
    draw, found = np.random.default_rng(0), {}
    sizes = {"B": 1, "T": 6, "K": 2} | {f"H{k}": -(-64 // 2**k) for k in range(3, 8)}
    sizes |= {f"W{k}": -(-96 // 2**k) for k in range(3, 8)}
    for value in model.graph.inputs:
        shape = [size if isinstance(size, int) else sizes[str(size)] for size in value.shape]
        found[str(value.name)] = draw.standard_normal(shape).astype(np.float32)
    found["attention_mask"] = np.ones(found["attention_mask"].shape, np.int64)
    found["image_sizes"] = np.array([[64, 96]])
    return found


def session(model: onnx_ir.Model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])


@pytest.mark.parametrize("bias_first", [False, True])
def test_a_bias_joins_its_product(bias_first: bool) -> None:
    draw = np.random.default_rng(1)
    x = onnx_ir.Value(name="x", type=onnx_ir.TensorType(DataType.FLOAT), shape=onnx_ir.Shape([None, 8]))
    graph = onnx_ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="product")
    tape = Tape()
    x_scale = [
        add_initializer(graph, "x_scale", np.array(0.02, np.float32)),
        add_initializer(graph, "x_zero", np.array(128, np.uint8)),
    ]
    weight = [
        add_initializer(graph, "w_quantized", draw.integers(-60, 60, (8, 5)).astype(np.int8)),
        add_initializer(graph, "w_scale", draw.uniform(0.01, 0.03, 5).astype(np.float32)),
    ]
    bias = add_initializer(graph, "b", draw.standard_normal(5).astype(np.float32))
    read = tape.op("DequantizeLinear", [tape.op("QuantizeLinear", [x, *x_scale]), *x_scale])
    product = tape.op("MatMul", [read, tape.op("DequantizeLinear", weight, {"axis": 1})])
    added = tape.op("Add", [bias, product] if bias_first else [product, bias])
    result = tape.op("Relu", [added])
    result.name, result.type = "y", onnx_ir.TensorType(DataType.FLOAT)
    graph.extend(tape.nodes)
    graph.outputs.append(result)
    model = onnx_ir.Model(graph, ir_version=10)
    given = {"x": draw.standard_normal((7, 8)).astype(np.float32)}
    plain = session(model).run(None, given)[0]
    assert add_biases(model) == 1
    assert [node.op_type for node in graph] == ["QuantizeLinear", "MatMulIntegerToFloat", "Relu"]
    np.testing.assert_allclose(session(model).run(None, given)[0], plain, atol=1e-5)
