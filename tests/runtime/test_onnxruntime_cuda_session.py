"""ONNX Runtime with features on the GPU, on a fake one: detections, memory, and its own CUDA graphs."""

from __future__ import annotations

import gc
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compact_oracle import OracleCase
from runtime.cuda.fake_driver import FakeDriver
from runtime.deferred_onnxruntime import DeferredOnnxRuntime, in_its_place

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.parity.cases import built_in_cases
from glip_export.parity.ladder import climb
from glip_export.runtime import onnxruntime_cuda_session
from glip_export.runtime.backends import open_session
from glip_export.runtime.cuda.arrays import DeviceArray
from glip_export.runtime.onnxruntime_cuda_graphs import REMEMBERED, CapturedRuns, Static
from glip_export.runtime.onnxruntime_cuda_session import OnnxRuntimeCudaSession
from glip_export.runtime.request_batch import BatchDetector
from glip_export.runtime.requests import Request


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy, for what is made is kept in it."""
    folder = tmp_path_factory.mktemp("cuda") / "tiny"
    shutil.copytree(tiny_bundle, folder, ignore=shutil.ignore_patterns("cache"))
    return Bundle.open(folder, verify=False)


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def runtime(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> DeferredOnnxRuntime:
    return in_its_place(driver, monkeypatch)


@pytest.fixture
def session(bundle: Bundle, driver: FakeDriver, runtime: DeferredOnnxRuntime) -> OnnxRuntimeCudaSession:
    return opened(bundle, runtime)


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Any:
    return open_session(bundle, "onnxruntime:cpu", threads=1)


@pytest.fixture(scope="module")
def pictures(tiny_io: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [tiny_io["raw_image0"], tiny_io["raw_image1"]]


def opened(bundle: Bundle, runtime: DeferredOnnxRuntime, **options: Any) -> OnnxRuntimeCudaSession:
    session = OnnxRuntimeCudaSession(bundle, 1, driver=runtime.driver, **options)
    runtime.stream = session.stream
    return session


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_detections_equal_those_of_the_host(
    session: OnnxRuntimeCudaSession, reference: Any, bundle: Bundle, pictures: list[np.ndarray], driver: FakeDriver
) -> None:
    ours, theirs = (Detector(one, bundle.config, bundle.image_size) for one in (session, reference))
    four = "person. bicycle. traffic light. hair drier"
    runs = ((pictures, four), (pictures[:1], "cat"), (pictures, ["red car", "dog"]), (pictures[:1], "cat"))
    found = [result for run in runs for result in ours.detect(*run)]  # all of them before any is looked at
    assert_same(found, [result for run in runs for result in theirs.detect(*run)])
    assert (session.name, session.provider, session.precision) == ("onnxruntime:cuda", "cuda", "fp32")
    assert driver.pending() == 0  # who has the detections need not wait
    assert found[0].labels.dtype == np.int64


def test_a_backbone_that_fuses_text(
    oracle_bundle: Callable[[OracleCase], Path], runtime: DeferredOnnxRuntime, driver: FakeDriver
) -> None:
    case = OracleCase("swint_vl_nofuse")
    bundle = Bundle.open(oracle_bundle(case), verify=False)
    host = open_session(bundle, "onnxruntime:cpu", threads=1)
    ours, theirs = (Detector(one, bundle.config) for one in (opened(bundle, runtime), host))
    runs = ((case.pictures(), case.prompt["names"]), (case.pictures()[:1], "cat"), (case.pictures(), "dog"))
    for pictures, prompt in runs:
        assert_same(ours.detect(pictures, prompt), theirs.detect(pictures, prompt))
    assert driver.pending() == 0


def test_the_ladder_of_checks(session: OnnxRuntimeCudaSession, reference: Any, bundle: Bundle) -> None:
    result = climb(reference, session, bundle.config, built_in_cases(bundle.config, quick=True))
    assert result.failures() == []
    assert all(diff.max_abs == 0 for _, diff in result.worst().values())


def test_requests_share_runs(
    session: OnnxRuntimeCudaSession, reference: Any, bundle: Bundle, pictures: list[np.ndarray]
) -> None:
    requests = [Request(picture, prompt) for picture in pictures for prompt in ("cat", "dog. red car")]
    ours, theirs = (BatchDetector(Detector(one, bundle.config)) for one in (session, reference))
    assert not ours.runs_in_turn
    for one, other in zip(ours.detect_each(requests), theirs.detect_each(requests), strict=True):
        assert len(one) == len(other)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.02)


def test_feature_maps_and_text_never_visit_the_host(
    session: OnnxRuntimeCudaSession, bundle: Bundle, pictures: list[np.ndarray], driver: FakeDriver
) -> None:
    detector = Detector(session, bundle.config)
    detector.detect(pictures, "cat. dog")
    encoded = detector.encode_images(pictures)
    assert all(isinstance(level, DeviceArray) for level in encoded.features)
    driver.counts.clear()
    detector.detect_encoded(encoded, "cat. dog")
    # In: mask, class map, sizes, and within the device the text once a picture, then to where the graph reads it.
    # Detections: ONNX Runtime's to bring.
    assert driver.counts["copy"] == 3 + len(pictures) + 1
    assert driver.counts["allocate"] == driver.counts["allocate_host"] == 0


def test_many_calls_before_anybody_waits(session: OnnxRuntimeCudaSession, reference: Any, driver: FakeDriver) -> None:
    generator = np.random.default_rng(3)
    batches = [generator.standard_normal((1, 3, 64, 64), np.float32) for _ in range(4)]
    session.prefetch(batches[0])
    features = [session.vision_backbone(batch) for batch in batches]
    assert driver.counts["synchronize"] == 0
    for found, batch in zip(features, batches, strict=True):
        for level, expected in zip(found, reference.vision_backbone(batch), strict=True):
            np.testing.assert_array_equal(np.asarray(level), expected)


def test_its_work_is_put_on_our_stream(bundle: Bundle, runtime: DeferredOnnxRuntime, driver: FakeDriver) -> None:
    driver.dlpack_device = (2, 0)  # a real one's
    session = opened(bundle, runtime, provider="tensorrt")
    stream = {"device_id": "0", "user_compute_stream": str(session.stream)}
    for given in runtime.providers:
        options = dict(given)
        assert stream.items() <= options["TensorrtExecutionProvider"].items()
        assert options["CUDAExecutionProvider"] == {"use_tf32": "0", **stream}
        assert options["CPUExecutionProvider"] == {}


def test_memory_is_flat_and_goes(session: OnnxRuntimeCudaSession, bundle: Bundle, pictures: list[np.ndarray]) -> None:
    detector = Detector(session, bundle.config)
    for _ in range(2):  # pictures have two buffers
        detector.detect(pictures, "cat. dog")
    allocated = session.describe()["device_memory_mb"]
    for _ in range(3):
        detector.detect(pictures, "cat. dog")
    assert session.describe()["device_memory_mb"] == allocated
    del detector
    gc.collect()
    session.close()
    assert session.describe()["device_memory_mb"] == 0


def test_it_says_which_provider_took_what(session: OnnxRuntimeCudaSession) -> None:
    assignment = session.describe()["assignment"]
    assert set(assignment) == {"text_encoder", "vision_backbone", "fusion_head"}
    head = assignment["fusion_head"]["CPUExecutionProvider"]  # which computes here
    assert head["operators"]["NonMaxSuppression"] == 1 and head["operators"]["DeformConv"] > 10
    assert 0 < head["parts"] <= sum(head["operators"].values())
    assert onnxruntime_cuda_session._assignment(object()) == {}  # of an older ONNX Runtime


def test_what_cannot_run_is_told(session: OnnxRuntimeCudaSession, driver: FakeDriver) -> None:
    driver.eager.add(session.stream)  # as ONNX Runtime finds a wrong shape: before anything is on the stream
    with pytest.raises(BackendError, match="images is float64 and should be float32"):
        session.vision_backbone(np.zeros((1, 3, 64, 64)))  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"ONNX Runtime failed in vision_backbone \(images \(1, 3, 0, 64\)\)"):
        session.vision_backbone(np.zeros((1, 3, 0, 64), np.float32))


def test_there_are_no_graphs_unless_asked_for(session: OnnxRuntimeCudaSession, runtime: DeferredOnnxRuntime) -> None:
    ids = np.full((1, 4), 1000)
    for _ in range(3):
        session.text_encoder(ids, np.ones_like(ids))
    assert set(runtime.graph_ids) == {""}
    assert not any("enable_cuda_graph" in options for given in runtime.providers for _, options in given)


def test_shapes_that_repeat_are_captured(
    bundle: Bundle, runtime: DeferredOnnxRuntime, reference: Any, driver: FakeDriver
) -> None:
    session = opened(bundle, runtime, cuda_graphs=2)
    assert [given[0][1].get("enable_cuda_graph") for given in runtime.providers] == ["1", "1", None]
    generator = np.random.default_rng(0)
    kept = []
    for turn in range(5):
        for tokens in (4, 9, 6):  # the third finds no room
            ids = generator.integers(1000, 2000, (1, tokens))
            kept.append((ids, session.text_encoder(ids, np.ones_like(ids))))
        images = generator.standard_normal((1, 3, 64, 96), np.float32)
        for one, other in zip(session.vision_backbone(images), reference.vision_backbone(images), strict=True):
            np.testing.assert_array_equal(np.asarray(one), other, err_msg=f"turn {turn}")
    for ids, found in kept:  # each has memory of its own, which no later launch writes to
        np.testing.assert_array_equal(np.asarray(found), reference.text_encoder(ids, np.ones_like(ids)))
    described = session.describe()
    assert described["cuda_graphs"] == {"text_encoder": 2, "vision_backbone": 1, "fusion_head": 0}
    assert list(described["cuda_graph_trouble"]) == ["fusion_head"]  # which is not tried
    assert runtime.graph_ids["1"] == 8 and runtime.graph_ids["2"] == 4  # the ids of a session: text 1 and 2, pictures 1
    assert runtime.graph_ids["-1"] == 2 + 2 + 5 + 2  # twice each plainly, the third shape always


def test_a_graph_is_for_the_addresses_it_was_captured_with(
    bundle: Bundle, runtime: DeferredOnnxRuntime, reference: Any
) -> None:
    """What comes in lies elsewhere every time, on the device too."""
    session = opened(bundle, runtime, cuda_graphs=1)
    generator = np.random.default_rng(1)
    for _ in range(4):
        images = generator.standard_normal((1, 3, 64, 64), np.float32)
        with runtime.driver.active():
            on_device = DeviceArray(session._pool, images.shape, images.dtype, session.stream)
            runtime.driver.copy(on_device.pointer, images, images.nbytes, session.stream)
        found = session.vision_backbone(on_device)  # type: ignore[arg-type]
        for one, other in zip(found, reference.vision_backbone(images), strict=True):
            np.testing.assert_array_equal(np.asarray(one), other)
    assert session.describe()["cuda_graphs"]["vision_backbone"] == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"refuse_graphs": "some nodes are on the CPU"}, "cannot load .*: some nodes are on the CPU"),
        ({"fail_capture": "error 900"}, "^error 900$"),
        ({"spoil_capture": True}, r"^a captured run's text_features is .* \(rms\) from the plain run's$"),
    ],
)
def test_what_cannot_be_captured_runs_plainly(
    bundle: Bundle, runtime: DeferredOnnxRuntime, reference: Any, fault: dict[str, Any], told: str
) -> None:
    for name, value in fault.items():
        setattr(runtime, name, value)
    session = opened(bundle, runtime, cuda_graphs=4)
    ids = np.full((1, 5), 1234)
    for _ in range(4):
        found = session.text_encoder(ids, np.ones_like(ids))
        np.testing.assert_array_equal(np.asarray(found), reference.text_encoder(ids, np.ones_like(ids)))
    described = session.describe()
    assert described["cuda_graphs"]["text_encoder"] == 0
    assert re.search(told, described["cuda_graph_trouble"]["text_encoder"])


def test_ten_thousand_shapes_leave_no_more_than_the_limit() -> None:
    runs = CapturedRuns(3)
    prepared: list[int] = []
    array = np.ones(1)

    def prepare(number: int) -> Static:
        prepared.append(number)
        return Static(number, None)

    for shape in range(10_000):
        for _ in range(2):
            runs.run(shape, lambda: {"y": array}, prepare, lambda static: {"y": array})  # type: ignore[dict-item]
    assert len(runs) == 3 and prepared == [1, 2, 3] and len(runs._seen) <= 3 * REMEMBERED
    assert runs.run(1, dict, prepare, lambda static: {"number": static.number}) == {"number": 2}  # type: ignore[dict-item]
