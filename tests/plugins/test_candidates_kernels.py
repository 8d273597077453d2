"""The candidates of the NMS in our kernels, against NumPy to the bit: selection, ties, boxes, empty places."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drawn_candidates import LEVELS, Drawn, drawn, plain_candidates, with_ties
from host_kernels import HostKernels

from glip_export.trt.kernels import (
    CandidateLevel,
    CandidateSizes,
    candidates_launches,
    candidates_workspace_bytes,
)

WIDE = (CandidateLevel(31, 40, 64.0, 8), CandidateLevel(16, 20, 128.0, 16))  # several chunks, the last one short


def run(host: HostKernels, given: Drawn, order: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    inputs = (given.classes, given.centerness, given.deltas, given.image_sizes)
    return host.candidates(given.sizes, given.threshold, *inputs, order)


def assert_equal(host: HostKernels, given: Drawn, order: int = 0) -> np.ndarray:
    """Gives the scores."""
    found, expected = run(host, given, order), plain_candidates(given)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    return found[1]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("batch", "classes", "k"),
    [(2, 1, 7), (1, 1, 300), (2, 5, 60), (1, 80, 64), (3, 4, 1), (1, 17, 1100), (1, 3, 65)],
)
def test_the_best_of_every_level(host: HostKernels, dtype: str, batch: int, classes: int, k: int) -> None:
    assert_equal(host, drawn(batch, classes, k, dtype=dtype), order=k % 4)


@pytest.mark.parametrize("over", [0.0, 0.002, 1.0])
def test_none_few_and_all_are_over_the_threshold(host: HostKernels, over: float) -> None:
    scores = assert_equal(host, drawn(2, 6, 50, over=over))
    assert (scores >= 0).any() == (over > 0)


@pytest.mark.parametrize("values", [1, 2, 7, 100])
@pytest.mark.parametrize("k", [1, 30, 200, 3000])
def test_of_equal_scores_the_smaller_index_comes_first(host: HostKernels, values: int, k: int) -> None:
    """Over several chunks, of which some give all of theirs, one gives a part and some none."""
    assert_equal(host, with_ties(drawn(2, 11, k, WIDE, over=0.5), values), order=2)


def test_all_pairs_are_equal(host: HostKernels) -> None:
    scores = assert_equal(host, with_ties(drawn(1, 16, 6000, WIDE, over=1.0), 1))
    assert (scores[0, :6000] > 0).all() and (scores[0, 6000:] > 0).sum() == 320 * 16  # one level is full, one is not


@pytest.mark.parametrize("found", [0, 1, 29, 30, 31])
def test_as_many_as_there_is_room_for_and_one_more_or_less(host: HostKernels, found: int) -> None:
    given = drawn(1, 3, 30, LEVELS[:1], over=0.0)
    places = np.random.default_rng(found).choice(given.classes[0].size, found, replace=False)
    given.classes[0].ravel()[places] = np.linspace(0.1, 0.9, found, dtype=np.float32)
    scores = assert_equal(host, given)
    assert (scores >= 0).sum() == min(found, 30)


def test_scores_that_differ_in_their_last_bits(host: HostKernels) -> None:
    """Each of the three histograms has to tell some apart."""
    given = drawn(1, 8, 500, WIDE)
    rng = np.random.default_rng(0)
    for array in given.classes:
        array[...] = (
            (np.float32(0.75).view(np.int32) + rng.integers(-300, 300, array.shape)).astype(np.int32).view("f4")
        )
    given.centerness = [np.full_like(array, 30.0) for array in given.centerness]  # whose probability is 1
    scores = assert_equal(host, given)
    assert len(np.unique(scores)) < 300


def test_scores_of_every_size_and_what_is_no_number(host: HostKernels) -> None:
    """Subnormal products, zero, more than 1; NaN and negative products are no candidates."""
    given = replace(drawn(1, 6, 900, LEVELS[:2]), threshold=-1.0)
    rng = np.random.default_rng(1)
    for array, centres in zip(given.classes, given.centerness, strict=True):
        array[...] = 10.0 ** rng.uniform(-37, 4, array.shape)
        for place, value in enumerate((0.0, -0.5, np.nan)):
            array.ravel()[place::7] = value
        centres.ravel()[::5] = -80.0
    none = replace(given, classes=[np.where(array >= 0, array, np.float32(-2)) for array in given.classes])
    for one, other in zip(run(host, given), plain_candidates(none), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_deltas_with_their_channels_last(host: HostKernels, dtype: str) -> None:
    given = drawn(2, 4, 40, dtype=dtype)
    expected = plain_candidates(given)
    levels = tuple(replace(level, channels_last=place != 1) for place, level in enumerate(LEVELS))
    given.sizes = replace(given.sizes, levels=levels)
    given.deltas = [
        np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if level.channels_last else array
        for array, level in zip(given.deltas, levels, strict=True)
    ]
    for one, other in zip(run(host, given), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("values", [3, 0])
def test_every_order_of_the_threads_gives_the_same_bits(host: HostKernels, values: int) -> None:
    given = drawn(1, 9, 120, WIDE, over=0.4)
    given = with_ties(given, values) if values else given
    results = {b"".join(array.tobytes() for array in run(host, given, order)) for order in (0, 1, 2, 3)}
    assert len(results) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"K": 0}, "do not take"),
        ({"k": 0}, "do not take"),
        ({"B": 70_000}, "do not take"),
        ({"levels": ()}, "do not take"),
        ({"levels": LEVELS[:1] * 7}, "do not take"),
        ({"levels": (CandidateLevel(0, 3, 64.0, 8),)}, "do not take"),
        ({"K": 1 << 24}, "too large"),
        ({"k": 1 << 29}, "too large"),
    ],
)
def test_sizes_that_the_kernels_do_not_take(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CandidateSizes(**{"B": 1, "K": 3, "k": 10, "levels": LEVELS, **change})


def test_memory_of_another_type_or_size_and_no_picture() -> None:
    sizes = CandidateSizes(1, 3, 10, LEVELS)
    arguments: list[Any] = [[256] * 5, [256] * 5, [256] * 5, *[256] * 5]

    def launches(place: int, memory: Any, dtype: str = "float16") -> Any:
        return candidates_launches(dtype, sizes, 0.05, *arguments[:place], memory, *arguments[place + 1 :])

    with pytest.raises(ValueError, match="float32 or float16, not float64"):
        launches(0, arguments[0], "float64")
    with pytest.raises(ValueError, match="centerness of 4 levels were given, and 5 are taken"):
        launches(1, [256] * 4)
    with pytest.raises(ValueError, match="classes 1 has shape"):
        launches(0, [256, np.zeros(3, np.float32), 256, 256, 256])
    with pytest.raises(TypeError, match="deltas 0 is float32"):
        launches(2, [np.zeros((1, 4, 12, 17), np.float32), 256, 256, 256, 256])
    with pytest.raises(ValueError, match="not aligned to 16 bytes"):
        launches(4, 264)
    with pytest.raises(ValueError, match="workspace has shape"):
        launches(7, np.zeros(candidates_workspace_bytes(sizes) - 80, np.uint8)[:-16])
    assert candidates_launches("float32", replace(sizes, B=0), 0.05, *arguments) == []
