"""Pictures prepared on a fake GPU by our kernels as C++: the images, and the detections, are those of the host's."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugins.host_kernels import HostKernels
from runtime.cuda.fake_driver import FakeDriver
from runtime.deferred_onnxruntime import in_its_place
from runtime.torch_cuda.host_device import open_on_host

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.config import ImageConfig
from glip_export.errors import BackendError, ImageError
from glip_export.image import pad, resize
from glip_export.results.detections import Detections
from glip_export.runtime.cuda import pictures as device_pictures
from glip_export.runtime.cuda.pictures import ImageSlot, device_batch, for_device, ready_for_pictures
from glip_export.runtime.cuda.pool import Pool
from glip_export.runtime.cuda.session import DeviceSession
from glip_export.runtime.onnxruntime_cuda_session import OnnxRuntimeCudaSession
from glip_export.runtime.request_batch import BatchDetector
from glip_export.runtime.requests import Request

DTYPE = np.dtype(np.float32)
NAMES = "cat. remote control"
IMAGE = ImageConfig(min_size=40, max_size=66)
SIZES = [(30, 44), (97, 64), (40, 60), (128, 200), (60, 31)]  # beside one that is as it is, two larger and one smaller


def noise(*sizes: tuple[int, int]) -> list[np.ndarray]:
    generator = np.random.default_rng(len(sizes))
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def batches_of(pictures: list[np.ndarray], config: ImageConfig = IMAGE) -> tuple[Any, np.ndarray]:
    """For the device, and what the host makes."""
    originals = [picture.shape[:2] for picture in pictures]
    return device_batch(pictures, originals, config), pad([resize(one, config) for one in pictures], originals, config)


@pytest.fixture
def driver(host: HostKernels) -> FakeDriver:
    return FakeDriver(kernels=host)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


@pytest.fixture(params=["torch:cuda", "onnxruntime:cuda"])
def session(
    request: pytest.FixtureRequest,
    bundle: Bundle,
    host: HostKernels,
    driver: FakeDriver,
    monkeypatch: pytest.MonkeyPatch,
) -> DeviceSession:
    if request.param == "torch:cuda":
        return open_on_host(bundle, host, driver=driver)
    runtime = in_its_place(driver, monkeypatch)
    session = OnnxRuntimeCudaSession(bundle, 1, driver=driver)
    runtime.stream = session.stream
    return session


@pytest.fixture(scope="module")
def pictures(tiny_io: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [tiny_io["raw_image0"], tiny_io["raw_image1"]]


def assert_same(found: list[Detections], expected: list[Detections]) -> None:
    assert sum(map(len, expected)) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes, strict=True)
        np.testing.assert_array_equal(one.scores, other.scores, strict=True)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.image_size == other.image_size


@pytest.mark.parametrize("eager", [False, True])
def test_images_of_a_slot(driver: FakeDriver, eager: bool) -> None:
    with driver.active():
        slot, stream = ImageSlot(Pool(driver)), driver.new_stream()
        driver.eager |= {stream} if eager else set()
        for sizes in ([SIZES[0]], SIZES, SIZES[1:3], [SIZES[3]]):
            batch, expected = batches_of(noise(*sizes))
            assert (batch.images.shape, batch.images.nbytes) == (expected.images.shape, expected.images.nbytes)
            np.testing.assert_array_equal(batch.sizes, expected.sizes, strict=True)
            np.testing.assert_array_equal(batch.originals, expected.originals, strict=True)
            slot.load_images(batch.images, stream)
            assert eager or driver.pending() > 0
            driver.synchronize(stream)
            found = driver.view(slot.pointer, batch.images.shape, DTYPE)
            np.testing.assert_array_equal(found, expected.images, strict=True)


def test_a_slot_is_filled_again_while_it_is_read(driver: FakeDriver) -> None:
    """The second batch waits, on the copies' stream, for whoever reads the first."""
    with driver.active():
        slot, copies, runs = ImageSlot(Pool(driver)), driver.new_stream(), driver.new_stream()
        seen: list[np.ndarray] = []
        expected = []
        for pictures in (noise(*SIZES[:2]), noise(*SIZES[1:3])):
            batch, host_made = batches_of(pictures)
            slot.load_images(batch.images, copies)
            slot.await_copy(runs)
            shape, pointer = batch.images.shape, slot.pointer
            driver.put(
                runs, lambda pointer=pointer, shape=shape: seen.append(driver.view(pointer, shape, DTYPE).copy())
            )
            slot.mark_consumed(runs)
            expected.append(host_made.images)
        driver.synchronize(copies)
        driver.synchronize(runs)
        for one, other in zip(seen, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_slot_that_ends_waits_for_its_kernels(driver: FakeDriver) -> None:
    with driver.active():
        slot, stream = ImageSlot(Pool(driver)), driver.new_stream()
        slot.load_images(batches_of(noise(SIZES[0]))[0].images, stream)
        assert driver.pending() > 0
        del slot
        gc.collect()
        assert driver.pending() == 0 and not driver.host_blocks


def test_detections_are_the_same(session: DeviceSession, bundle: Bundle, pictures: list[np.ndarray]) -> None:
    given = [pictures[0][::2, ::2], *pictures, np.repeat(pictures[1], 3, axis=1)]
    for size in (None, 1, 3):
        found = Detector(session, bundle.config, gpu_preprocess=True).detect(given, NAMES, batch_size=size)
        assert_same(found, Detector(session, bundle.config).detect(given, NAMES, batch_size=size))


def test_no_image_of_floats_is_copied(session: DeviceSession, bundle: Bundle, pictures: list[np.ndarray]) -> None:
    driver: Any = session._driver
    detector = Detector(session, bundle.config, gpu_preprocess=True)
    batch = detector.batch_of([pictures[0]], [pictures[0].shape[:2]])
    assert not isinstance(batch.images, np.ndarray)
    session.prefetch(batch.images)
    driver.counts.clear()
    encoded = detector.encode_batch(batch)
    assert driver.counts["copy"] == driver.counts["launch_kernels"] == 0  # it was copied, and made, ahead
    expected = Detector(session, bundle.config).encode_images([pictures[0]])
    for one, other in zip(encoded.features, expected.features, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_requests_are_answered_the_same(session: DeviceSession, bundle: Bundle, pictures: list[np.ndarray]) -> None:
    requests = [Request(picture, NAMES) for picture in (*pictures, pictures[0][:, ::-1])]
    answers = [
        BatchDetector(Detector(session, bundle.config, gpu_preprocess=on_gpu)).detect_each(requests)
        for on_gpu in (True, False)
    ]
    assert_same(*answers)


def test_a_large_picture_is_resized_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_pictures, "MAX_DEVICE_PIXELS", 100 * 150)
    small, large = noise((100, 150), (101, 150))
    assert for_device(small, IMAGE) is small
    np.testing.assert_array_equal(for_device(large, IMAGE), resize(large, IMAGE))


def test_a_picture_that_cannot_be_resized(session: DeviceSession, bundle: Bundle) -> None:
    detector = Detector(session, bundle.config, gpu_preprocess=True)
    with pytest.raises(ImageError, match="picture 2 is 2 x 9000 pixels, too narrow"):
        detector.detect(noise((40, 40), (9000, 2)), NAMES)


def test_where_there_is_no_gpu(bundle: Bundle, host: HostKernels) -> None:
    with pytest.raises(BackendError, match=r"onnxruntime.* has no pictures on a GPU: .* takes tensorrt, torch:cuda"):
        Detector.open(bundle.path, "onnxruntime:cpu", 1, gpu_preprocess=True)
    without = open_on_host(bundle, host, driver=FakeDriver())
    with pytest.raises(BackendError, match="the fake GPU has no kernels"):
        Detector(without, bundle.config, gpu_preprocess=True)


def test_models_whose_pictures_are_the_hosts_alone(driver: FakeDriver, bundle: Bundle) -> None:
    session = DeviceSession(driver)
    several = replace(bundle.config, detection=replace(bundle.config.detection, several_scales=True))
    with pytest.raises(BackendError, match="sees them at several scales"):
        ready_for_pictures(session, several)
    fusing = replace(bundle.config, swin=replace(bundle.config.swin, version="vl"))
    with pytest.raises(BackendError, match="its backbone reads the text"):
        ready_for_pictures(session, fusing)
