"""Attention within windows in one kernel against the model's own form of it in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from drawn_windows import LIMITS, attend_to_windows, drawn_windows
from host_kernels import HostKernels

from glip_export.graphs import swin_node
from glip_export.graphs.swin_node import arranged
from glip_export.trt import norm_launches, window_launches
from glip_export.trt.kernels import WindowSizes, window_attention_launches

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


def expected_of(drawn: Drawn, window: int, shift: int, scale: float) -> np.ndarray:
    return attend_to_windows(*(torch.from_numpy(array).double() for array in drawn), window, shift, scale).numpy()


def run(host: HostKernels, drawn: Drawn, window: int, shift: int, scale: float, dtype: str, order: int) -> np.ndarray:
    qkv, bias, relative = (array.astype(dtype) for array in (*drawn[:2], arranged(drawn[2])))
    return host.window_attention(qkv, bias, relative, window, shift, scale, order)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(
    ("batch", "height", "width", "heads", "depth", "window", "shift"),
    [
        (2, 8, 15, 2, 32, 7, 3),
        (1, 7, 7, 3, 32, 7, 0),
        (1, 7, 14, 1, 32, 7, 3),  # nothing is padded
        (1, 1, 1, 1, 32, 7, 3),
        (1, 3, 9, 2, 16, 7, 3),  # lower than a window
        (1, 13, 5, 1, 32, 12, 6),  # three chunks of keys
        (1, 10, 12, 2, 32, 12, 0),
        (2, 5, 3, 2, 48, 4, 2),
        (1, 4, 9, 1, 64, 8, 4),
        (1, 3, 3, 5, 64, 2, 1),
        (1, 2, 3, 1, 16, 1, 0),  # a window of one position
        (1, 17, 16, 1, 16, 16, 8),  # the largest
    ],
)
def test_it_is_the_models(
    host: HostKernels, dtype: str, batch: int, height: int, width: int, heads: int, depth: int, window: int, shift: int
) -> None:
    drawn = drawn_windows(batch, height, width, heads, depth, window)
    expected = expected_of(drawn, window, shift, depth**-0.5)
    found = run(host, drawn, window, shift, depth**-0.5, dtype, order=height % 4)
    assert found.dtype == dtype
    assert np.abs(found - expected).max() <= LIMITS[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("dtype", LIMITS)
def test_every_order_of_the_threads_gives_the_same_bits(host: HostKernels, dtype: str) -> None:
    drawn = drawn_windows(1, 6, 9, 2, 32, 7)
    assert len({run(host, drawn, 7, 3, 0.2, dtype, order).tobytes() for order in range(4)}) == 1


@pytest.mark.parametrize("dtype", LIMITS)
def test_what_is_no_number_stays_in_its_window_and_head(host: HostKernels, dtype: str) -> None:
    drawn = drawn_windows(1, 7, 14, 2, 16, 7)
    sound = run(host, drawn, 7, 0, 0.25, dtype, 0)
    drawn[0][0, 3, 2, 5] = np.nan  # a query of the first window's first head
    drawn[0][0, 3, 9, 6 * 16 - 1] = np.nan  # a value of the second's second
    found = run(host, drawn, 7, 0, 0.25, dtype, 0)
    wrong = np.isnan(found[0])
    assert wrong[3, 2, :16].all() and wrong[:, 7:, 31].all() and wrong.sum() == 16 + 49
    np.testing.assert_array_equal(found[0][~wrong], sound[0][~wrong])


def test_scores_far_apart(host: HostKernels) -> None:
    """The largest score comes last, and the first chunk's largest is far below it."""
    qkv, bias, relative = drawn_windows(1, 12, 12, 1, 16, 12)
    relative[:] = np.linspace(-300, 300, 144, dtype=np.float16)
    expected = expected_of((qkv, bias, relative), 12, 0, 0.25)
    for dtype, limit in LIMITS.items():
        found = run(host, (qkv, bias, relative), 12, 0, 0.25, dtype, 0)
        assert np.abs(found - expected).max() <= 10 * limit * np.abs(expected).max()


def test_the_graph_knows_what_the_kernels_take() -> None:
    for name in ("DEPTH_UNIT", "MAX_DEPTH", "MAX_WINDOW_VALUES"):
        assert getattr(swin_node, name) == getattr(window_launches, name)
    for name in ("NORM_UNIT", "MAX_NORM_CHANNELS"):
        assert getattr(swin_node, name) == getattr(norm_launches, name)


def test_a_block_has_room_for_every_window() -> None:
    for depth in (16, 32, 48, 64):
        window = int((4608 // depth) ** 0.5)
        for dtype in LIMITS:
            (launch,) = window_attention_launches(dtype, WindowSizes(1, 5, 5, 1, depth, window, 0), 1.0, *[256] * 4)
            assert launch.shared_bytes <= 48 << 10 and launch.block[0] <= 512


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": 24}, "2 heads of 24 channels"),
        ({"depth": 80}, "2 heads of 80 channels"),
        ({"heads": 0}, "0 heads"),
        ({"window": 13}, "windows of 13 shifted by 3, 32 channels a head"),
        ({"shift": 7}, "windows of 7 shifted by 7"),
        ({"shift": -1}, "shifted by -1"),
        ({"B": 70_000}, "70000 maps"),
        ({"H": 1 << 16, "W": 1 << 15}, "too large"),
    ],
)
def test_sizes_that_the_kernels_do_not_take(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WindowSizes(**{"B": 1, "H": 9, "W": 9, "heads": 2, "depth": 32, "window": 7, "shift": 3, **change})


def test_memory_of_another_type_or_size_and_no_map() -> None:
    sizes = WindowSizes(1, 2, 2, 1, 16, 7, 3)
    assert sizes.relative_shape == arranged(np.zeros((1, 49, 49), np.float32)).shape
    assert window_attention_launches("float32", WindowSizes(0, 2, 2, 1, 16, 7, 3), 1.0, 0, 0, 0, 0) == []
    with pytest.raises(ValueError, match="float32 or float16, not float64"):
        window_attention_launches("float64", sizes, 1.0, *[256] * 4)
    with pytest.raises(ValueError, match=r"a scale of 0\.0"):
        window_attention_launches("float16", sizes, 0.0, *[256] * 4)
    with pytest.raises(ValueError, match="not aligned to 16 bytes"):
        window_attention_launches("float16", sizes, 1.0, 256, 264, 256, 256)
    with pytest.raises(ValueError, match="relative has shape"):
        window_attention_launches("float32", sizes, 1.0, 256, 256, np.zeros(49 * 49, np.float32), 256)
