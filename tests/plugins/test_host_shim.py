"""The shim itself: half precision, undefined shared memory, and the two faults of barriers that it shows."""

from __future__ import annotations

import ctypes

import numpy as np
from host_kernels import BARRIER_MISSED, HostKernels

from glip_export.addresses import pointer_to
from glip_export.trt.kernels import Launch


def _run(host: HostKernels, kernel: str, threads: int, order: int = 0) -> tuple[int, np.ndarray]:
    out = np.zeros(threads, np.int32)
    launch = Launch(kernel, (1, 1, 1), (threads, 1, 1), 0, (pointer_to(out, written=True),))
    return host.launch(launch, order), out


def test_half_to_float_is_numpys_for_every_half(host: HostKernels) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    floats = np.empty(1 << 16, np.float32)
    host.library.glip_host_half_to_float(halves, floats, 1 << 16)
    np.testing.assert_array_equal(floats, halves.view(np.float16).astype(np.float32))


def test_float_to_half_is_numpys_for_every_rounding(host: HostKernels) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    every = every[np.isfinite(every)]
    between = (every[:-1].astype(np.float64) + every[1:]) / 2  # ties
    rng = np.random.default_rng(0)
    floats = np.concatenate(
        [
            every,
            between.astype(np.float32),
            np.nextafter(between.astype(np.float32), np.float32(np.inf)),
            np.nextafter(between.astype(np.float32), np.float32(-np.inf)),
            rng.integers(0, 1 << 32, 100_000, dtype=np.uint64).astype(np.uint32).view(np.float32),
            np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65519.99, 65520, 65535, 1e-45, 2.0**-25], np.float32),
        ]
    )
    found = np.empty(len(floats), np.uint16)
    host.library.glip_host_float_to_half(floats, found, len(floats))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = floats.astype(np.float16)
    np.testing.assert_array_equal(found.view(np.float16), expected)
    np.testing.assert_array_equal(np.signbit(found.view(np.float16)), np.signbit(expected) | (found >> 15 == 1))


def test_a_barrier_that_some_threads_miss_is_reported_and_shared_memory_starts_undefined(host: HostKernels) -> None:
    outcome, seen = _run(host, "glip_missed_barrier", 8)
    assert outcome == BARRIER_MISSED
    assert seen.view(np.uint32)[0] == 0xA5A5A5A5


def test_a_missing_barrier_shows_in_another_order_of_the_threads(host: HostKernels) -> None:
    results = {_run(host, "glip_missing_barrier", 64, order)[1].tobytes() for order in (0, 1, 2)}
    assert len(results) > 1


def test_a_copy_is_there_when_it_was_waited_for_and_no_sooner(host: HostKernels) -> None:
    values, out = np.array([7, 8, 9, 10], np.int32), np.zeros(2, np.int32)
    launch = Launch("glip_missing_wait", (1, 1, 1), (1, 1, 1), 0, (pointer_to(values), pointer_to(out, written=True)))
    assert host.launch(launch) == 0
    assert out.view(np.uint32).tolist() == [0xA5A5A5A5, 7]


def test_a_shuffle_that_some_lanes_miss_is_reported(host: HostKernels) -> None:
    assert _run(host, "glip_missed_shuffle", 32)[0] == BARRIER_MISSED


def test_threads_and_blocks_have_their_indices(host: HostKernels) -> None:
    """A kernel whose grid is larger than its work leaves the rest alone."""
    scores = np.linspace(1, 0, 10, dtype=np.float32)
    order = np.full(12, -7, np.int32)
    launch = Launch(
        "glip_nms_rank",
        (3, 2, 1),
        (256, 1, 1),
        0,
        (
            pointer_to(scores),
            pointer_to(order, written=True),
            ctypes.c_int32(1),
            ctypes.c_int32(10),
        ),
    )
    assert host.launch(launch) == 0
    assert order.tolist() == [*range(10), -7, -7]
