"""The TensorRT session on the stand-in for TensorRT, built by the real builder's frame, on the fake driver."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from compact_oracle import OracleCase
from gpu.stand_in_build import build_stand_in, stand_in
from oracle_detections import check_detections
from plugins.host_kernels import HostKernels
from runtime.cuda.fake_driver import FakeDriver
from runtime.torch_cuda.host_device import use_host_kernels

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.parity.cases import built_in_cases
from glip_export.parity.ladder import climb
from glip_export.parity.run import run
from glip_export.runtime.backends import open_session
from glip_export.runtime.tensorrt_session import TensorRtSession


@pytest.fixture
def driver(host: HostKernels) -> Iterator[FakeDriver]:
    """A fake GPU on which `import tensorrt` gives the stand-in."""
    use_host_kernels(host)
    driver = FakeDriver()
    with stand_in(driver):
        yield driver


@pytest.mark.parametrize("nms", ["plugin", "host"])
def test_equals_onnxruntime_and_becomes_graphs(tiny_copy: Path, driver: FakeDriver, nms: str) -> None:
    build_stand_in(tiny_copy, "fp32", nms=nms)
    bundle = Bundle.open(tiny_copy)
    session, reference = TensorRtSession(bundle, driver=driver), open_session(bundle, "onnxruntime", threads=1)
    cases = built_in_cases(bundle.config)
    assert climb(reference, session, bundle.config, cases[:3]).failures() == []
    inputs = cases[0].inputs(bundle.config)
    first = run(session, inputs).chunks[0]
    for _ in range(3):
        np.testing.assert_array_equal(run(session, inputs).chunks[0].boxes, first.boxes)
    described = session.describe()
    assert described["library"].startswith("TensorRT 11.") and described["cuda_graph_trouble"] == {}
    assert min(described["cuda_graphs"].values()) > 0
    session.close()


def test_half_precision_is_another_engine(tiny_copy: Path, driver: FakeDriver) -> None:
    sets = [build_stand_in(tiny_copy, precision) for precision in ("fp32", "fp16")]
    assert [engines.folder.name for engines in sets] == ["tensorrt-fp32", "tensorrt-fp16"]
    bundle, token = Bundle.open(tiny_copy), np.ones((1, 4), np.int64)
    assert TensorRtSession(bundle, driver=driver).precision == "fp16"
    full, half = (
        np.asarray(TensorRtSession(bundle, precision=word, driver=driver).text_encoder(token, token))
        for word in ("fp32", "fp16")
    )
    difference = np.abs(full - half).max() / np.abs(full).max()
    assert 1e-6 < difference < 1e-2


def test_a_backbone_that_fuses_text(
    oracle_bundle: Callable[[OracleCase], Path], tmp_path: Path, driver: FakeDriver
) -> None:
    """Its engine takes text beside the pictures, and maps that are no quarter of them."""
    case = OracleCase("swint_v2_vl")
    folder = Path(shutil.copytree(oracle_bundle(case), tmp_path / "bundle"))
    build_stand_in(folder, "fp32")
    bundle = Bundle.open(folder)
    session = TensorRtSession(bundle, driver=driver)
    check_detections(case, Detector(session, bundle.config).detect(case.pictures(), case.prompt["names"]))
    session.close()


def test_shapes_beyond_the_profiles_are_refused(tiny_copy: Path, driver: FakeDriver) -> None:
    build_stand_in(tiny_copy, "fp32")
    session = TensorRtSession(Bundle.open(tiny_copy), driver=driver)
    with pytest.raises(BackendError, match=r"the engine of text_encoder does not take .* pictures in a batch"):
        session.text_encoder(np.ones((99, 4), np.int64), np.ones((99, 4), np.int64))


def test_what_is_no_engine_of_its_own_is_refused_in_its_words(tiny_copy: Path, driver: FakeDriver) -> None:
    engines = build_stand_in(tiny_copy, "fp32")
    path = engines.engine_path("text_encoder")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BackendError, match=r"TensorRT 11.*cannot load .*the stand-in was given no engine of its own"):
        TensorRtSession(Bundle.open(tiny_copy, verify=False), driver=driver)
