"""A bi-attention in our kernels against its formula in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drawn_bi_attention import LIMITS, Drawn, draw, expected_of
from host_kernels import HostKernels

from glip_export.trt.bi_attention_launches import (
    BiAttentionSizes,
    image_reads_launches,
    text_reads_launches,
    text_reads_workspace_bytes,
)


def run(host: HostKernels, drawn: Drawn, dtype: str, order: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Both halves, in float32."""
    v, keys, bias, values = (array.astype(dtype) for array in (drawn.v, drawn.keys, drawn.bias, drawn.values))
    heads = keys.shape[1] // drawn.mask.shape[1]
    to_text = host.text_reads(v, keys, bias, heads, drawn.limits, order)
    image = host.image_reads(v, keys, bias, values, drawn.mask, drawn.gain, drawn.offset, drawn.limits, order)
    return to_text.astype(np.float32), image.astype(np.float32)


def assert_close(drawn: Drawn, found: tuple[np.ndarray, np.ndarray], tolerance: float) -> None:
    for ours, exact in zip(found, expected_of(drawn), strict=True):
        assert np.abs(ours - exact).max() <= tolerance * np.abs(exact).max()


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(
    ("batch", "positions", "channels", "tokens", "heads"),
    [
        (2, 70, 64, 16, 8),
        (3, 65, 32, 7, 8),  # a position after a block's
        (1, 1, 32, 1, 8),
        (1, 130, 64, 17, 3),  # an odd number of heads, a token after a tile
        (2, 40, 64, 10, 3),
        (1, 33, 96, 43, 2),  # channels between the kernels' widths
        (2, 50, 256, 9, 2),
        (1, 20, 64, 194, 2),
        (1, 20, 32, 256, 1),
        (1, 600, 32, 3, 1),  # several splits
    ],
)
def test_both_halves_are_the_formulas(
    host: HostKernels, dtype: str, batch: int, positions: int, channels: int, tokens: int, heads: int
) -> None:
    drawn = draw(batch, positions, channels, tokens, heads=heads)
    assert_close(drawn, run(host, drawn, dtype), LIMITS[dtype])


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("tokens", [5, 40])
def test_every_order_of_the_threads_gives_the_same_bits(host: HostKernels, dtype: str, tokens: int) -> None:
    drawn = draw(1, 70, 32, tokens, heads=3)
    results = {tuple(half.tobytes() for half in run(host, drawn, dtype, order)) for order in (0, 1, 2, 3)}
    assert len(results) == 1


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(
    ("spread", "limits"), [(3e4, (-50000.0, 50000.0)), (3e4, (-3e38, 3e38)), (30.0, (-8.0, 9.0)), (0.0, (-3e38, 3e38))]
)
def test_scores_of_any_size(host: HostKernels, dtype: str, spread: float, limits: tuple[float, float]) -> None:
    """Far over what a half holds; clamped to less than a reference may be off; all the same."""
    drawn = draw(2, 70, 32, 40, heads=2, spread=spread, limits=limits)
    found = run(host, drawn, dtype)
    if spread > 1000:  # a sum's last bits decide between two that are nearly equal: what is clear must be right
        exact = expected_of(drawn)
        for ours, theirs in zip(found, exact, strict=True):
            assert np.isfinite(ours).all()
            off = np.abs(ours - theirs).max(-1) > LIMITS[dtype] * np.abs(theirs).max()
            assert off.mean() < 0.02
    else:
        assert_close(drawn, found, LIMITS[dtype])


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("tokens", [6, 40])
@pytest.mark.parametrize("masked", [-9e15, -np.inf, -3.4e38])
def test_masks_of_every_kind(host: HostKernels, dtype: str, tokens: int, masked: float) -> None:
    """The second image has no token: it reads the mean of all, as the model does."""
    drawn = draw(2, 40, 32, tokens, heads=3, masked=masked)
    assert (drawn.mask[1] < -1e9).all() and (drawn.mask[0] == 1).all()
    assert_close(drawn, run(host, drawn, dtype), LIMITS[dtype])


@pytest.mark.parametrize("dtype", LIMITS)
def test_the_largest_score_comes_late(host: HostKernels, dtype: str) -> None:
    """What was summed up before is made smaller."""
    drawn = draw(1, 520, 32, 100, heads=1, spread=1.0)
    drawn.bias[:] = np.linspace(-60, 60, 100).astype(np.float16)
    drawn.v[0] *= np.linspace(0.1, 4, 520).astype(np.float16)[:, None]
    rounded = replace(drawn, v=drawn.v.astype(np.float16).astype(np.float32))
    assert_close(rounded, run(host, rounded, dtype), LIMITS[dtype])


def test_what_is_no_number_stays_in_its_image(host: HostKernels) -> None:
    drawn = draw(2, 40, 32, 6, heads=3, masked=1.0)
    sound = run(host, drawn, "float16")
    drawn.v[1, 7, 3] = np.nan
    found = run(host, drawn, "float16")
    for ours, before in zip(found, sound, strict=True):
        assert np.array_equal(ours[0], before[0])
    assert np.isnan(found[0][1]).all()  # every token reads every position
    assert np.isnan(found[1][1, 7]).all() and np.array_equal(found[1][1, :7], sound[1][1, :7])


def test_a_splits_share_is_never_empty_and_the_device_is_full() -> None:
    coco, names = (BiAttentionSizes(1, 20267, 256, 8, tokens) for tokens in (194, 16))
    (reads, _), (few, _) = (text_reads_launches("float16", sizes, (0, 0), *[256] * 5) for sizes in (coco, names))
    assert (reads.grid, few.grid) == ((25, 10, 1), (2, 66, 1))
    for positions in (1, 31, 255, 256, 513):
        assert BiAttentionSizes(1, positions, 32, 8, 1).splits("float16") == max(1, -(-positions // 32) // 8)
    assert BiAttentionSizes(300, 20267, 256, 8, 16).splits("float16") == 1
    assert reads.shared_bytes == 64 << 10  # all that there is on sm_75


@pytest.mark.parametrize(
    "change",
    [{"C": 48}, {"C": 288}, {"T": 0}, {"T": 257}, {"heads": 0}, {"N": 0}, {"B": 70_000}, {"N": 1 << 24, "C": 256}],
)
def test_sizes_that_the_kernels_do_not_take(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="bi-attention kernels"):
        BiAttentionSizes(**{"B": 1, "N": 10, "C": 64, "heads": 8, "T": 4, **change})


def test_memory_of_another_type_or_size_and_no_image() -> None:
    sizes, limits = BiAttentionSizes(1, 10, 32, 8, 2), (-1.0, 1.0)
    v, rows = np.zeros((1, 10, 32), np.float32), np.zeros((1, 16, 32), np.float32)
    workspace = np.zeros(text_reads_workspace_bytes("float32", sizes), np.uint8)
    with pytest.raises(ValueError, match="float32 or float16, not float64"):
        text_reads_launches("float64", sizes, limits, v, rows, 256, rows, workspace)
    with pytest.raises(ValueError, match="keys has shape"):
        text_reads_launches("float32", sizes, limits, v, rows[:, 1:], 256, rows, workspace)
    with pytest.raises(ValueError, match="workspace has shape"):
        text_reads_launches("float32", sizes, limits, v, rows, 256, rows, workspace[:-16])
    with pytest.raises(ValueError, match="not aligned to 16 bytes"):
        image_reads_launches("float16", sizes, limits, 264, *[256] * 7)
    with pytest.raises(TypeError, match="mask is float16"):
        mask = np.zeros((1, 2), np.float16)
        image_reads_launches("float16", sizes, limits, *[256] * 4, mask, *[256] * 3)
    nothing = BiAttentionSizes(0, 10, 32, 8, 2)
    assert text_reads_launches("float32", nothing, limits, *[0] * 5) == []
    assert image_reads_launches("float32", nothing, limits, *[0] * 8) == []
