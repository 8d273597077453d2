"""The backend torch:cuda end to end on a fake GPU: the same code, PyTorch's CPU tensors, our kernels as C++."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plugins.host_kernels import HostKernels
from runtime.cuda.fake_driver import FakeDriver
from runtime.torch_cuda.host_device import HostStreams, open_on_host

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.parity.cases import Case, built_in_cases
from glip_export.parity.ladder import climb
from glip_export.parity.precision_check import compare_detections
from glip_export.parity.recall import together
from glip_export.parity.run import Outputs, broken_rules, run
from glip_export.runtime.backends import open_session
from glip_export.runtime.cuda.arrays import DeviceArray
from glip_export.runtime.torch_cuda.session import TorchCudaSession


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


@pytest.fixture
def session(bundle: Bundle, host: HostKernels) -> TorchCudaSession:
    return open_on_host(bundle, host)


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Any:
    return open_session(bundle, "torch", threads=1)


@pytest.fixture(scope="module")
def cases(bundle: Bundle) -> list[Case]:
    return built_in_cases(bundle.config)


@pytest.fixture(scope="module")
def pictures(cases: list[Case]) -> list[np.ndarray]:
    return [picture for case in cases[:3] for picture in case.pictures]


def arrays(outputs: Outputs) -> list[np.ndarray]:
    features = [np.asarray(level) for level in outputs.features]
    chunks = [
        [np.asarray(chunk.text_features), chunk.boxes, chunk.scores, chunk.labels, chunk.count]
        for chunk in outputs.chunks
    ]
    return features + [array for chunk in chunks for array in chunk]


def test_fp32_equals_the_model(session: TorchCudaSession, reference: Any, cases: list[Case], bundle: Bundle) -> None:
    result = climb(reference, session, bundle.config, cases)
    assert result.failures() == []


def test_the_demo_model_equals_too(demo_bundle: Path, host: HostKernels) -> None:
    bundle = Bundle.open(demo_bundle, verify=False)
    reference = open_session(bundle, "onnxruntime", threads=1)
    result = climb(reference, open_on_host(bundle, host), bundle.config, built_in_cases(bundle.config)[1:3])
    assert result.failures() == []


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precisions_find_the_clear_detections(demo_bundle: Path, host: HostKernels, precision: str) -> None:
    bundle = Bundle.open(demo_bundle, verify=False)
    reference, session = open_session(bundle, "onnxruntime", threads=1), open_on_host(bundle, host, precision)
    diffs = []
    for case in built_in_cases(bundle.config):
        inputs = case.inputs(bundle.config)
        found, expected = run(session, inputs), run(reference, inputs)
        assert broken_rules(found, inputs, bundle.config) == ()
        diffs.append(compare_detections(expected, found))
    assert together(diffs).within(), f"{together(diffs).found} of {together(diffs).counted}"


def test_features_stay_on_the_device(session: TorchCudaSession, cases: list[Case], bundle: Bundle) -> None:
    inputs = cases[0].inputs(bundle.config)
    features = session.vision_backbone(inputs.images)
    assert all(isinstance(level, DeviceArray) for level in features)
    copies = session._driver.counts["copy"]
    text = inputs.chunks[0]
    given = [array[None] for array in (text.input_ids, text.attention_mask, text.class_map)]
    session.fusion_head(features, session.text_encoder(*given[:2]), given[1], given[2], inputs.sizes)
    small = 2 + 3  # ids and mask; mask, class map and sizes
    embedded = 1  # within the device, to where the head's CUDA graphs read it
    assert session._driver.counts["copy"] - copies == small + embedded + 4  # and the detections back


def test_graphs_after_the_second_run(bundle: Bundle, host: HostKernels, cases: list[Case]) -> None:
    driver = FakeDriver()
    session, plain = open_on_host(bundle, host, driver=driver), open_on_host(bundle, host, cuda_graphs=0)
    for case in cases[:3]:
        inputs = case.inputs(bundle.config)
        expected = arrays(run(plain, inputs))
        for turn in range(4):
            for one, other in zip(arrays(run(session, inputs)), expected, strict=True):
                np.testing.assert_array_equal(one, other, err_msg=f"turn {turn}")
    described = session.describe()
    assert described["cuda_graph_trouble"] == {} and min(described["cuda_graphs"].values()) > 0
    assert driver.counts["launch"] > 0 and len(driver.graphs) == sum(described["cuda_graphs"].values())
    assert plain.describe()["cuda_graphs"] == dict.fromkeys(described["cuda_graphs"], 0)
    session.close()
    assert not driver.graphs and driver.pending() == 0


def test_a_graph_that_cannot_be_captured_is_run_plainly(
    bundle: Bundle, host: HostKernels, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: HostStreams, work: Any, stream: int) -> Any:
        raise BackendError("operation not permitted when stream is capturing")

    session, inputs = open_on_host(bundle, host), cases[0].inputs(bundle.config)
    expected = arrays(run(session, inputs))
    monkeypatch.setattr(HostStreams, "capture", refuse)
    for _ in range(3):
        for one, other in zip(arrays(run(session, inputs)), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert "not permitted" in session.describe()["cuda_graph_trouble"]["fusion_head"]


def test_memory_is_flat_over_many_shapes(bundle: Bundle, host: HostKernels, cases: list[Case]) -> None:
    session = open_on_host(bundle, host)
    every = [case.inputs(bundle.config) for case in cases]
    first, sizes = [arrays(run(session, inputs)) for inputs in every], []
    for _ in range(4):
        for inputs, expected in zip(every, first, strict=True):
            for one, other in zip(arrays(run(session, inputs)), expected, strict=True):
                np.testing.assert_array_equal(one, other)
        gc.collect()
        sizes.append(session.describe()["device_memory_mb"])
    assert sizes[-1] == sizes[0]


@pytest.mark.parametrize("eager", [False, True])
def test_prefetched_pictures(bundle: Bundle, host: HostKernels, cases: list[Case], eager: bool) -> None:
    driver = FakeDriver()
    session = open_on_host(bundle, host, driver=driver)
    if eager:
        driver.eager |= set(driver.streams)
    inputs = cases[2].inputs(bundle.config)
    ahead = [inputs.images, inputs.images[::-1].copy(), inputs.images * 0.5]
    expected = [[np.asarray(level) for level in session.vision_backbone(images)] for images in ahead]
    session.prefetch(ahead[0])
    for place, images in enumerate(ahead):
        features = session.vision_backbone(images)
        if place + 1 < len(ahead):
            session.prefetch(ahead[place + 1])
        for one, other in zip(features, expected[place], strict=True):
            np.testing.assert_array_equal(np.asarray(one), other)


def test_a_detector_on_it(bundle: Bundle, host: HostKernels, pictures: list[np.ndarray]) -> None:
    names = "cat. remote control"
    sessions = open_on_host(bundle, host), open_session(bundle, "onnxruntime", threads=1)
    found, expected = (Detector(one, bundle.config).detect(pictures, names) for one in sessions)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) > 0
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.02)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)


def test_torch_takes_its_features(session: TorchCudaSession, cases: list[Case], bundle: Bundle) -> None:
    features = session.vision_backbone(cases[0].inputs(bundle.config).images)
    session.synchronize()
    level = torch.from_dlpack(features[0])
    assert level.shape == features[0].shape
    np.testing.assert_array_equal(level.numpy(), np.asarray(features[0]))


def test_compiled_calls_equal_plain_ones(bundle: Bundle, host: HostKernels, cases: list[Case]) -> None:
    inputs = cases[0].inputs(bundle.config)
    expected = arrays(run(open_on_host(bundle, host), inputs))
    compiled = open_on_host(bundle, host, compiler="eager")  # the graph that a compiler is given, run as it is
    for _ in range(3):
        for one, other in zip(arrays(run(compiled, inputs)), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_it_needs_no_checkpoint(bundle: Bundle, host: HostKernels) -> None:
    unknown = dataclasses.replace(bundle.weights, path="/nowhere/weights.pth")
    session = open_on_host(dataclasses.replace(bundle, weights=unknown), host)
    token = np.ones((1, 3), np.int64)
    assert np.isfinite(np.asarray(session.text_encoder(token, token))).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("word", ["torch:cuda", "torch:cuda:fp32", "torch:cuda:bf16"])
def test_without_a_gpu(bundle: Bundle, word: str) -> None:
    with pytest.raises(BackendError, match=r"torch:cuda needs an NVIDIA GPU.* finds none"):
        open_session(bundle, word)


def test_no_such_precision(bundle: Bundle, host: HostKernels) -> None:
    with pytest.raises(BackendError, match="no precision 'fp8': choose one of fp32, fp16, bf16"):
        open_on_host(bundle, host, "fp8")
    with pytest.raises(BackendError, match="choose torch, torch:cuda, torch:cuda:fp16"):
        open_session(bundle, "torch:cuda:fp8")
