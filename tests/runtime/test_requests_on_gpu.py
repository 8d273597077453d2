"""Requests on a fake GPU: features stay there, as many pictures and prompts as there are, and CUDA graphs go on."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugins.host_kernels import HostKernels
from runtime.cuda.fake_driver import FakeDriver
from runtime.torch_cuda.host_device import open_on_host

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.errors import GlipExportError
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.runtime.backends import open_session
from glip_export.runtime.cuda.arrays import DeviceArray
from glip_export.runtime.cuda.errors import CudaError
from glip_export.runtime.cuda.pool import Pool
from glip_export.runtime.cuda.staging import InputSlot
from glip_export.runtime.encoded import EncodedImages, joined, joined_arrays, kept, selected
from glip_export.runtime.request_batch import BatchDetector
from glip_export.runtime.requests import DroppedError, Request
from glip_export.runtime.torch_cuda.session import TorchCudaSession

PROMPTS = ("cat", "dog", "car", "tree", "house")  # of one length in tokens


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


@pytest.fixture
def session(bundle: Bundle, host: HostKernels) -> TorchCudaSession:
    return open_on_host(bundle, host)


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Detector:
    return Detector(open_session(bundle, "onnxruntime:cpu", threads=1), bundle.config)


def pictures(count: int) -> list[np.ndarray]:
    """Of one size, each another."""
    return [np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8) for seed in range(count)]


def assert_near(found: list[Detections | GlipExportError], expected: list[Detections]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Detections)
        assert len(one) == len(other)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.02)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_what_is_kept_lies_apart() -> None:
    driver = FakeDriver()
    with driver.active():
        pool, stream = Pool(driver), driver.new_stream()
        array = DeviceArray(pool, (3, 4, 5), np.float32, stream)
        values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
        driver.copy(array.pointer, values, values.nbytes, stream)
        picked = array.rows([2, 0])
        one = array.rows([-2])
        again = picked.rows([1])
        assert {picked.pool, one.pool, again.pool} == {pool.kept} and pool.kept is not pool
        np.testing.assert_array_equal(np.asarray(picked), values[[2, 0]], strict=True)
        np.testing.assert_array_equal(np.asarray(again), values[[0]], strict=True)
        assert pool.allocated == 4 * 512
        with pytest.raises(IndexError):
            array.rows([3])
        address = array.pointer
        del array
        gc.collect()
        assert DeviceArray(pool, (3, 4, 5), np.float32, stream).pointer == address  # whatever is kept
        del picked, one, again
        gc.collect()
        assert pool.trim() == 4 * 512 and pool.allocated == 0 and not driver.device_blocks


def test_several_are_brought_together_where_they_are_read() -> None:
    driver = FakeDriver()
    with driver.active():
        pool, stream = Pool(driver), driver.new_stream()
        array = DeviceArray(pool, (3, 4), np.float32, stream)
        values = np.arange(12, dtype=np.float32).reshape(3, 4)
        driver.copy(array.pointer, values, values.nbytes, stream)
        parts = [array.rows([2]), array.rows([0, 1])]
        both = joined_arrays(parts)
        assert (both.shape, both.ndim, both.dtype, len(both)) == ((3, 4), 2, np.float32, 3)
        np.testing.assert_array_equal(np.asarray(both), values[[2, 0, 1]], strict=True)
        slot = InputSlot(pool)
        slot.load_own(both.parts, stream)
        driver.synchronize(stream)
        np.testing.assert_array_equal(driver.view(slot.pointer, (3, 4), np.dtype(np.float32)), values[[2, 0, 1]])
        assert joined_arrays(parts[:1]) is parts[0]
        other = DeviceArray(Pool(driver), (3, 4), np.float32, stream).rows([0])
        for mixed in ([parts[0], values[:1]], [values[:1], parts[0]], [parts[0], other]):
            found = joined_arrays(mixed)  # through the host
            assert isinstance(found, np.ndarray)
            np.testing.assert_array_equal(found, np.concatenate([np.asarray(one) for one in mixed]))


def test_what_is_kept_takes_the_place_of_what_runs_let_go_of() -> None:
    driver = FakeDriver(memory=40 << 20)
    asked: list[bool] = []
    with driver.active():
        pool, stream = Pool(driver), driver.new_stream()
        small = DeviceArray(pool, (1, 2 << 20), np.float32, stream)
        large = DeviceArray(pool, (1, 7 << 20), np.float32, stream)
        del large  # 28 MB that wait, in the runs' pool
        gc.collect()
        kept_one = small.rows([0])
        assert pool.allocated == 2 * (8 << 20)
        pool.reclaim = lambda: asked.append(True)
        held = [kept_one.rows([0]) for _ in range(3)]
        assert not asked
        with pytest.raises(CudaError, match="memory is full"):
            held.append(kept_one.rows([0]))
        assert asked == [True]


def test_of_the_hosts_arrays_nothing_else_comes() -> None:
    levels = tuple(np.random.default_rng(0).random((3, 2, size, size), np.float32) for size in (4, 2))
    sizes = np.array([[8, 8], [7, 6], [5, 4]])
    encoded = EncodedImages(levels, sizes, sizes * 2)
    parts = [selected(encoded, [index]) for index in (2, 0)]
    assert all(level.base is None for part in parts for level in part.features)
    together = joined(parts)
    for level, expected in zip(together.features, levels, strict=True):
        np.testing.assert_array_equal(level, expected[[2, 0]], strict=True)
    np.testing.assert_array_equal(together.originals, sizes[[2, 0]] * 2)
    assert kept(levels[0]) is levels[0]


@pytest.mark.parametrize("max_rows", [1, 3])
def test_features_stay_on_the_gpu(
    session: TorchCudaSession, bundle: Bundle, reference: Detector, max_rows: int
) -> None:
    driver: Any = session._driver
    batch = BatchDetector(Detector(session, bundle.config), max_rows)
    copied: list[int] = []
    plain = driver.copy

    def copy(to: Any, source: Any, size: int, stream: int) -> None:
        if isinstance(to, np.ndarray):
            copied.append(size)
        plain(to, source, size, stream)

    driver.copy = copy
    given = pictures(4)
    found = batch.detect_each([Request(picture, "cat. remote control") for picture in given])
    assert_near(found, [reference.detect([picture], "cat. remote control")[0] for picture in given])
    assert len(batch.cache) == 4
    held = [level for encoded in batch.cache._pictures.values() for level in encoded.features]
    assert all(isinstance(level, DeviceArray) and level.pool.is_kept for level in held)
    assert max(copied) < max(level.nbytes for level in held) / 10  # only detections, and short texts of several rows


def test_graphs_serve_every_picture_and_prompt(session: TorchCudaSession, bundle: Bundle, reference: Detector) -> None:
    """A kept picture or text lies at an address of its own; each run finds it at the same one."""
    streams: Any = session._runners["fusion_head"]._streams
    batch = BatchDetector(Detector(session, bundle.config))
    given = pictures(9)
    for turn, (picture, prompt) in enumerate(zip(given, PROMPTS * 2, strict=False)):
        if turn == 4:  # each has run twice at the addresses that stay, the backbone at each of two for pictures
            plain_runs = streams.runs
        (found,) = batch.detect_each([Request(picture, prompt)])
        assert_near([found], reference.detect([picture], prompt))
    again = batch.answer([Request(given[3], "cat")])
    assert all(answer.cached for _, answer in again)
    assert streams.runs == plain_runs
    counts = {name: len(runner.graphs) for name, runner in session._runners.items()}
    assert counts == {"text_encoder": 1, "vision_backbone": 2, "fusion_head": 1}


def test_memory_grows_with_the_runs_and_not_with_the_requests(bundle: Bundle, host: HostKernels) -> None:
    """Of one call's pictures no more lie on the GPU than share a run."""
    used = []
    for count in (8, 24):
        session = open_on_host(bundle, host)
        batch = BatchDetector(Detector(session, bundle.config), max_rows=4, image_cache_bytes=0)
        found = batch.detect_each([Request(picture, PROMPTS[0]) for picture in pictures(count)])
        assert all(isinstance(one, Detections) for one in found)
        used.append(session.describe()["device_memory_mb"])
    assert used[0] == used[1]


def test_a_picture_that_nobody_waits_for_any_more_is_not_run(session: TorchCudaSession, bundle: Bundle) -> None:
    """Whether it is wanted is asked again before its own run, when others' are over."""
    batch, given = BatchDetector(Detector(session, bundle.config), max_rows=1), pictures(2)
    runs: list[int] = []
    backbone = session._runners["vision_backbone"]
    run = backbone.run
    backbone.run = lambda given, stream: runs.append(1) or run(given, stream)
    requests = [Request(given[0], "cat"), Request(given[1], "cat", wanted=lambda: not runs)]
    found, dropped = batch.detect_each(requests)
    assert isinstance(found, Detections) and isinstance(dropped, DroppedError)
    assert len(runs) == 1


def test_held_pictures_run_with_new_ones(session: TorchCudaSession, bundle: Bundle, reference: Detector) -> None:
    batch, given = BatchDetector(Detector(session, bundle.config)), pictures(4)
    batch.detect_each([Request(picture, "cat") for picture in given[:2]])
    head = session._runners["fusion_head"]
    rows, run = [], head.run
    head.run = lambda given, stream: rows.append(given["class_map"][1][0]) or run(given, stream)
    requests = [Request(picture, "dog") for picture in (*given, given[0][:, :60])]
    assert_near(batch.detect_each(requests), [reference.detect([each.image], "dog")[0] for each in requests])
    assert sorted(rows) == [1, 4]  # the last is of another shape


def test_a_picture_that_is_let_go_of_gives_its_memory_back(session: TorchCudaSession, bundle: Bundle) -> None:
    one = sum(4 * 3 * side for side in (1, 2))  # bytes; far less than a picture's
    for limit in (one, 10**9):
        batch = BatchDetector(Detector(session, bundle.config), image_cache_bytes=limit)
        for picture in pictures(3):
            batch.detect_each([Request(picture, "cat")])
        assert len(batch.cache) == (0 if limit == one else 3)
    before = session.describe()["device_memory_mb"]
    batch.cache.clear()
    gc.collect()
    for picture in pictures(3):
        batch.detect_each([Request(picture, "cat")])
    assert session.describe()["device_memory_mb"] == before


def test_prompts_of_many_lengths_are_few_sizes(session: TorchCudaSession, bundle: Bundle, reference: Detector) -> None:
    """Tokens and names go up in steps, masked: a longer prompt is seldom another size."""
    shapes = set()
    run = session._runners["fusion_head"].run

    def noted(given: Any, stream: int) -> Any:
        shapes.add(given["class_map"][1])
        return run(given, stream)

    session._runners["fusion_head"].run = noted
    detector, (picture,) = Detector(session, bundle.config), pictures(1)
    names = [f"{colour} {thing}" for colour in ("red", "green") for thing in ("cat", "dog", "car", "tree", "house")]
    for count in (1, 2, 3, 4, 6, 9):
        found = detector.detect([picture], names[:count])
        assert_near(list(found), reference.detect([picture], names[:count]))
    assert shapes == {(1, 16, 1), (1, 16, 2), (1, 16, 4), (1, 32, 8), (1, 32, 16)}
    together = BatchDetector(detector).detect_each([Request(picture, names[:count]) for count in (1, 9, 3)])
    assert_near(together, [reference.detect([picture], names[:count])[0] for count in (1, 9, 3)])
    assert (3, 32, 16) in shapes


def test_a_caption_goes_up_to_the_models_length(session: TorchCudaSession, bundle: Bundle, reference: Detector) -> None:
    most = bundle.config.text.max_query_len
    names = ["cat"] * most
    chunk = Detector(session, bundle.config).chunks(Prompt.of(names))[0]
    detector = Detector(session, bundle.config)
    assert len(chunk.input_ids) % 16 and detector.encode_text(chunk).shape[1] == min(most, -(-most // 16) * 16)
    (picture,) = pictures(1)
    assert_near(list(detector.detect([picture], names)), reference.detect([picture], names))
