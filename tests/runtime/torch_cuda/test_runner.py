"""What stands between torch:cuda and the rest of a program: PyTorch's switches, plans that were forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from plugins.host_kernels import HostKernels
from runtime.cuda.fake_driver import FakeDriver
from runtime.torch_cuda.host_device import open_on_host

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.runtime.torch_cuda import program
from glip_export.runtime.torch_cuda.runner import exact_products

MATMUL, CONVOLUTIONS = torch.backends.cuda.matmul, torch.backends.cudnn.conv


def switches() -> tuple[str, str, bool]:
    return MATMUL.fp32_precision, CONVOLUTIONS.fp32_precision, MATMUL.allow_fp16_reduced_precision_reduction


@pytest.fixture
def fast_products() -> Iterator[None]:
    before = [(where, where.fp32_precision) for where in (MATMUL, CONVOLUTIONS)]
    for where, _ in before:
        where.fp32_precision = "tf32"
    yield
    for where, value in before:
        where.fp32_precision = value


def test_a_programs_switches_are_its_own_again(fast_products: None) -> None:
    before = switches()
    assert before[:2] == ("tf32", "tf32")
    with pytest.raises(RuntimeError, match="kernel"), exact_products():
        assert switches() == ("ieee", "ieee", False)
        raise RuntimeError("a kernel failed")
    assert switches() == before


def test_the_last_of_several_threads_puts_them_back() -> None:
    before, inside, first_has_left = switches(), Barrier(2), Barrier(2)

    def first() -> None:
        with exact_products():
            inside.wait()
        first_has_left.wait()

    def second() -> tuple[str, str, bool]:
        with exact_products():
            inside.wait()
            first_has_left.wait()
            return switches()

    with ThreadPoolExecutor(2) as threads:
        _, seen = threads.submit(first), threads.submit(second)
        assert seen.result() == ("ieee", "ieee", False)
    assert switches() == before


def test_a_shape_forgotten_before_its_second_run(
    tiny_bundle: Path, host: HostKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture needs calls that are known: it waits for the run after."""
    monkeypatch.setattr(program, "KEPT_PLANS", 1)
    session = open_on_host(Bundle.open(tiny_bundle, verify=False), host)
    tokens = [np.ones((1, count), np.int64) for count in (3, 4)]
    expected = [np.asarray(session.text_encoder(token, token)) for token in tokens]
    for _ in range(3):
        for token, wanted in zip(tokens, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(session.text_encoder(token, token)), wanted)
    assert session.describe()["cuda_graph_trouble"] == {}
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(session.text_encoder(tokens[1], tokens[1])), expected[1])
    assert session.describe()["cuda_graphs"]["text_encoder"] > 0


def test_another_number_of_axes_is_refused(tiny_bundle: Path, host: HostKernels) -> None:
    session = open_on_host(Bundle.open(tiny_bundle, verify=False), host)
    with pytest.raises(BackendError, match=r"text_encoder: input_ids has shape \(3,\), not 2 axes"):
        session.text_encoder(np.ones(3, np.int64), np.ones(3, np.int64))


def test_a_full_gpu_is_asked_again_without_what_pytorch_keeps(
    tiny_bundle: Path, host: HostKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, emptied = FakeDriver(), []
    session = open_on_host(Bundle.open(tiny_bundle, verify=False), host, driver=driver, cuda_graphs=0)
    tokens = np.ones((1, 5), np.int64)
    expected = np.asarray(session.text_encoder(tokens, tokens))
    held = np.ones((4, 16), np.int64)

    def empty() -> None:
        emptied.append(True)
        driver.memory = 1 << 40

    session._pool.reclaim = empty
    session.text_encoder(held, held)  # its inputs have their memory
    kept = session.text_encoder(held, held)
    driver.memory = 0
    results = [session.text_encoder(held, held) for _ in range(3)]
    assert emptied and len(kept) == len(results[0])
    np.testing.assert_array_equal(np.asarray(session.text_encoder(tokens, tokens)), expected)


def test_another_threads_first_run_is_no_capture(tiny_bundle: Path, host: HostKernels) -> None:
    session = open_on_host(Bundle.open(tiny_bundle, verify=False), host)
    tokens = np.ones((1, 5), np.int64)
    expected = np.asarray(session.text_encoder(tokens, tokens))
    with ThreadPoolExecutor(1) as thread:
        found = [thread.submit(lambda: np.asarray(session.text_encoder(tokens, tokens))).result() for _ in range(3)]
    for one in found:
        np.testing.assert_array_equal(one, expected)
    runs = session._runners["text_encoder"]._streams.runs
    assert runs >= 2, "the thread's first run was a capture"
