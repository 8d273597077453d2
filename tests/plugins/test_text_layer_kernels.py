"""The kernels of a layer of BERT, compiled as C++, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plugins.host_kernels import HostKernels
from plugins.host_text_layer import (
    NO_LIMITS,
    attention,
    expected_attention,
    expected_gelu,
    expected_norm,
    gelu,
    norm,
)

from glip_export.graphs import text_layer_node
from glip_export.trt import text_layer_launches
from glip_export.trt.text_layer_launches import text_attention_launches, text_gelu_launches, text_norm_launches

TYPES = [("float32", 1e-5), ("float16", 2e-3)]
PADDED = np.float32(np.finfo(np.float32).min)


def close(ours: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(ours.astype(np.float64), expected, rtol=0, atol=tolerance * np.abs(expected).max())


def drawn(batch: int, tokens: int, heads: int, depth: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(tokens * depth)
    mask = np.zeros((batch, tokens), np.float32)
    mask[-1, tokens - tokens // 3 :] = PADDED
    return rng.normal(0, 1, (batch, tokens, 3 * heads * depth)).astype(dtype), mask


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "depth"),
    [(1, 1, 1, 8), (2, 7, 3, 16), (1, 65, 2, 64), (2, 130, 1, 40), (1, 17, 1, 128)],
)
def test_attention(
    host: HostKernels, batch: int, tokens: int, heads: int, depth: int, dtype: str, tolerance: float
) -> None:
    qkv, mask = drawn(batch, tokens, heads, depth, dtype)
    made = attention(host, qkv, mask, heads, depth**-0.5)
    close(made, expected_attention(qkv, mask, heads, depth**-0.5, NO_LIMITS), tolerance)


def test_one_mask_of_all_texts(host: HostKernels) -> None:
    qkv, mask = drawn(3, 9, 2, 16, "float32")
    one = np.ascontiguousarray(mask[-1:])
    close(attention(host, qkv, one, 2, 0.25), expected_attention(qkv, one, 2, 0.25, NO_LIMITS), 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_scores_are_clamped_before_the_mask(host: HostKernels, dtype: str) -> None:
    """So large that two of them are equal once they are clamped; a padded token gets nothing."""
    qkv, mask = drawn(1, 6, 1, 8, dtype)
    qkv *= 100
    limits = (-50.0, 50.0)
    close(attention(host, qkv, mask, 1, 1.0, limits), expected_attention(qkv, mask, 1, 1.0, limits), 2e-3)
    unclamped = expected_attention(qkv, mask, 1, 1.0, NO_LIMITS)
    assert np.abs(unclamped - expected_attention(qkv, mask, 1, 1.0, limits)).max() > 1


def test_a_text_that_is_all_padding_has_no_nan(host: HostKernels) -> None:
    qkv, mask = drawn(1, 5, 1, 8, "float16")
    mask[:] = PADDED
    assert np.isfinite(attention(host, qkv, mask, 1, 1.0)).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (3, 48), (2, 300), (2, 768)])
def test_norm_of_a_sum(host: HostKernels, rows: int, channels: int, dtype: str) -> None:
    rng = np.random.default_rng(channels)
    x, added = rng.normal(3, 2, (2, rows, channels)).astype(np.float32)
    added = added.astype(dtype)
    weight, bias = rng.normal(0, 1, (2, channels)).astype(np.float32)
    added_limits, limits = (-4.0, 4.0), (-2.0, 2.0)
    out, narrow = norm(host, x, added, weight, bias, 1e-5, added_limits, limits)
    close(out, expected_norm(x, added, weight, bias, 1e-5, added_limits, limits), 1e-5)
    np.testing.assert_array_equal(narrow, out.astype(dtype))


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("limits", [NO_LIMITS, (-1.0, 1.5)])
def test_gelu(host: HostKernels, limits: tuple[float, float], dtype: str, tolerance: float) -> None:
    x = np.linspace(-6, 6, 8 * 300).astype(dtype)
    close(gelu(host, x, limits), expected_gelu(x, limits), tolerance)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_order_of_threads_gives_the_same_bits(host: HostKernels, order: int) -> None:
    qkv, mask = drawn(2, 20, 2, 16, "float16")
    np.testing.assert_array_equal(attention(host, qkv, mask, 2, 0.25, order=order), attention(host, qkv, mask, 2, 0.25))
    x, added = np.random.default_rng(0).normal(0, 1, (2, 3, 70)).astype(np.float32)
    weight = bias = np.ones(70, np.float32)
    for made, expected in zip(
        norm(host, x, added, weight, bias, 1e-5, order=order), norm(host, x, added, weight, bias, 1e-5), strict=True
    ):
        np.testing.assert_array_equal(made, expected)


def test_the_graphs_pass_knows_what_the_kernels_take() -> None:
    for name in ("DEPTHS", "MAX_DEPTH", "HIDDEN", "MAX_NORMED"):
        assert getattr(text_layer_node, name) == getattr(text_layer_launches, name)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_no_number_stays_so(host: HostKernels, dtype: str) -> None:
    x = np.ones(16, dtype)
    x[3] = np.nan
    assert np.isnan(gelu(host, x, (-2.0, 2.0)))[3]
    rows, ones = np.ones((2, 8), np.float32), np.ones(8, np.float32)
    rows[0, 1] = np.nan
    wide, narrow = norm(host, rows, np.ones((2, 8), dtype), ones, ones, 1e-5, (-2.0, 2.0), (-2.0, 2.0))
    assert np.isnan(wide[0]).all() and np.isnan(narrow[0]).all() and np.isfinite(wide[1]).all()
    qkv, mask = drawn(1, 4, 1, 8, dtype)
    qkv[0, 2, 0] = np.nan  # of a query
    assert np.isnan(attention(host, qkv, mask, 1, 1.0, (-2.0, 2.0))[0, 2]).all()


@pytest.mark.parametrize(
    "sizes", [(1, 4, 1, 12, 1), (1, 4, 1, 136, 1), (1, 0, 1, 8, 1), (1, 513, 1, 8, 1), (2, 4, 1, 8, 3), (1, 4, 0, 8, 1)]
)
def test_sizes_that_the_attention_does_not_take(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the text's attention takes no"):
        text_attention_launches("float32", *sizes, 1.0, NO_LIMITS, 0, 0, 0)


def test_memory_and_types_that_are_refused_and_nothing_to_do() -> None:
    x = np.zeros((1, 4, 24), np.float32)
    attend: Any = (1, 4, 1, 8, 1, 1.0, NO_LIMITS)
    with pytest.raises(ValueError, match="float32 or float16, not float64"):
        text_attention_launches("float64", *attend, x, x, x)
    with pytest.raises(ValueError, match="mask has shape"):
        text_attention_launches("float32", *attend, x, x, np.zeros((1, 4, 8), np.float32))
    with pytest.raises(ValueError, match="takes no 1 rows of 5000 channels"):
        text_norm_launches("float32", 1, 5000, 1e-5, NO_LIMITS, NO_LIMITS, 0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="takes no 12 values"):
        text_gelu_launches("float16", 12, NO_LIMITS, 0, 0)
    with pytest.raises(ValueError, match="not aligned to 16 bytes"):
        text_gelu_launches("float16", 8, NO_LIMITS, 8, 16)
    assert text_attention_launches("float32", 0, 4, 1, 8, 1, 1.0, NO_LIMITS, 0, 0, 0) == []
    assert text_norm_launches("float32", 0, 8, 1e-5, NO_LIMITS, NO_LIMITS, 0, 0, 0, 0, 0) == []
    assert text_gelu_launches("float32", 0, NO_LIMITS, 0, 0) == []
