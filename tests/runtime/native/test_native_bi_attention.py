"""The bi-attention kernel against its formula, and that against the model's own module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_checks import TOLERANCES, assert_near, precisions

from glip_export.config import HeadConfig
from glip_export.model.bi_attention import LIMIT, MASKED, NUM_HEADS, BiMultiHeadAttention
from glip_export.runtime.native import Kernels


@pytest.mark.parametrize("tokens", [1, 6, 16, 33, 256])
@pytest.mark.parametrize("positions", [1, 95, 403])
def test_bi_attention(kernels: Kernels, tokens: int, positions: int) -> None:
    channels = kernels.panel
    rng = np.random.default_rng(tokens * positions)
    image, keys, values = (
        rng.standard_normal((2, n, channels), dtype=np.float32)
        for n in (positions, NUM_HEADS * tokens, NUM_HEADS * tokens)
    )
    bias = rng.standard_normal((2, NUM_HEADS * tokens, 1), dtype=np.float32)
    mask = np.ones((2, 1, 1, tokens), np.float32)
    mask[1, ..., tokens // 2 + 1 :] = MASKED
    expected = attention(image, keys, bias, values, mask, LIMIT)
    for precision, tolerance in precisions(kernels):
        for threads in (1, 3):
            to_text, to_image = np.full_like(keys, np.nan), np.full_like(image, np.nan)
            kernels.bi_attention(
                image, (keys, bias, values), mask, (-LIMIT, LIMIT), to_text, to_image, precision, threads
            )
            for got, want in zip((to_text, to_image), expected, strict=True):
                assert_near(
                    got, want, tolerance if precision == "fp32" else 5 * tolerance
                )  # scores of ten and more, rounded


@pytest.mark.parametrize("positions", [1, 97, 250])
def test_the_images_norm_and_residual(kernels: Kernels, positions: int) -> None:
    """As without, of rows that are normalised first, and added to what they read."""
    channels, tokens, epsilon = kernels.panel, 6, 1e-2
    rng = np.random.default_rng(positions)
    image = 3 * rng.standard_normal((2, positions, channels), dtype=np.float32) + 1
    keys, values = (rng.standard_normal((2, NUM_HEADS * tokens, channels), dtype=np.float32) for _ in range(2))
    bias = rng.standard_normal((2, NUM_HEADS * tokens, 1), dtype=np.float32)
    mask = np.ones((2, 1, 1, tokens), np.float32)
    norm = rng.standard_normal((4, channels), dtype=np.float32)
    weight, beta, gain, offset = torch.from_numpy(norm)
    rows = torch.nn.functional.layer_norm(torch.from_numpy(image), (channels,), weight, beta, epsilon)
    expected, read = attention(rows.numpy(), keys, bias, values, mask, LIMIT)
    for precision, tolerance in precisions(kernels):
        results = []
        for threads in (1, 2):
            to_text, to_image = np.full_like(keys, np.nan), np.full_like(image, np.nan)
            kernels.bi_attention(
                image, (keys, bias, values), mask, (-LIMIT, LIMIT), to_text, to_image, precision, threads, norm, epsilon
            )
            results.append(to_image)
            assert_near(to_text, expected, 5 * tolerance)
            assert_near(to_image, rows + gain * (read + offset), 5 * tolerance)
        assert np.array_equal(*results)


def test_bi_attention_with_extreme_scores_and_clamps(kernels: Kernels) -> None:
    """Scores far beyond an exponential's range, rising over the picture, some beyond the clamps."""
    channels, tokens, positions = kernels.panel, 5, 500
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, positions, channels), dtype=np.float32) * np.linspace(1, 4000, positions)[:, None]
    image = image.astype(np.float32)
    keys, values = (rng.standard_normal((1, NUM_HEADS * tokens, channels), dtype=np.float32) for _ in range(2))
    bias, mask = np.zeros((1, NUM_HEADS * tokens, 1), np.float32), np.ones((1, 1, 1, tokens), np.float32)
    for limit in (LIMIT, 3e38):
        to_text, to_image = np.empty_like(keys), np.empty_like(image)
        kernels.bi_attention(image, (keys, bias, values), mask, (-limit, limit), to_text, to_image, "fp32", 2)
        for got, want in zip((to_text, to_image), attention(image, keys, bias, values, mask, limit), strict=True):
            assert np.isfinite(got).all()
            assert_near(got, want, 1e-3)  # one score's last bit is 0.004


WHOLE = pytest.mark.parametrize("precision", ["int16", "int8"])


def skip_without(kernels: Kernels, precision: str) -> None:
    if not getattr(kernels, f"has_{precision}"):
        pytest.skip(f"these kernels have no {precision}")


@pytest.mark.parametrize("tokens", [7, 194])
def test_in_int8_what_is_read_is_near_on_the_whole(kernels: Kernels, tokens: int) -> None:
    """Of scores of one or two, the root mean square of the errors to that of the values."""
    skip_without(kernels, "int8")
    channels, positions = 256, 300
    rng = np.random.default_rng(tokens)
    image, keys, values = (
        rng.standard_normal((1, n, channels), dtype=np.float32)
        for n in (positions, NUM_HEADS * tokens, NUM_HEADS * tokens)
    )
    keys *= 0.1
    bias, mask = np.zeros((1, NUM_HEADS * tokens, 1), np.float32), np.ones((1, 1, 1, tokens), np.float32)
    to_text, to_image = np.empty_like(keys), np.empty_like(image)
    kernels.bi_attention(image, (keys, bias, values), mask, (-LIMIT, LIMIT), to_text, to_image, "int8", 2)
    for got, want in zip((to_text, to_image), attention(image, keys, bias, values, mask, LIMIT), strict=True):
        wanted = want.numpy()
        assert np.sqrt(((got - wanted) ** 2).mean() / (wanted**2).mean()) < 3e-2


@WHOLE
def test_in_whole_numbers_small_exponentials_count(kernels: Kernels, precision: str) -> None:
    """One position's scores stand out so far that the others, all together, weigh as much: none is rounded to zero."""
    skip_without(kernels, precision)
    channels, positions = kernels.panel, 2000
    rng = np.random.default_rng(1)
    image = rng.standard_normal((1, positions, channels), dtype=np.float32) * 0.01
    image[0, 700] += 8.0 / channels
    keys = np.ones((1, NUM_HEADS, channels), np.float32)
    values, bias = rng.standard_normal(keys.shape, dtype=np.float32), np.zeros((1, NUM_HEADS, 1), np.float32)
    mask = np.ones((1, 1, 1, 1), np.float32)
    to_text, to_image = np.empty_like(keys), np.empty_like(image)
    kernels.bi_attention(image, (keys, bias, values), mask, (-LIMIT, LIMIT), to_text, to_image, precision, 2)
    for got, want in zip((to_text, to_image), attention(image, keys, bias, values, mask, LIMIT), strict=True):
        assert_near(got, want, TOLERANCES[precision])


@WHOLE
def test_in_whole_numbers_a_row_far_below_its_neighbours_is_shared_out_too(kernels: Kernels, precision: str) -> None:
    """One position's scores are so far above the others' that beside them theirs are zero."""
    skip_without(kernels, precision)
    channels, tokens, positions = kernels.panel, 5, 100
    rng = np.random.default_rng(2)
    image = rng.standard_normal((1, positions, channels), dtype=np.float32)
    image[0, 30] += 200.0 / channels
    keys = np.ones((1, NUM_HEADS * tokens, channels), np.float32)
    keys += 0.05 * rng.standard_normal(keys.shape, dtype=np.float32)
    values, bias = rng.standard_normal(keys.shape, dtype=np.float32), np.zeros((1, NUM_HEADS * tokens, 1), np.float32)
    mask = np.ones((1, 1, 1, tokens), np.float32)
    to_text, to_image = np.empty_like(keys), np.empty_like(image)
    kernels.bi_attention(image, (keys, bias, values), mask, (-LIMIT, LIMIT), to_text, to_image, precision, 2)
    for got, want in zip((to_text, to_image), attention(image, keys, bias, values, mask, LIMIT), strict=True):
        assert_near(got, want, 3 * TOLERANCES[precision])


@WHOLE
def test_in_whole_numbers_the_largest_do_not_overflow(kernels: Kernels, precision: str) -> None:
    """Images, keys and values that are everywhere as large as they can be, with one sign: sums of 32 bits are full."""
    skip_without(kernels, precision)
    channels, tokens, positions = 256, 40, 96
    image, keys, values = (
        np.full((1, count, channels), value, np.float32)
        for count, value in ((positions, 3.0), (NUM_HEADS * tokens, -0.01), (NUM_HEADS * tokens, 7.0))
    )
    bias, mask = np.zeros((1, NUM_HEADS * tokens, 1), np.float32), np.ones((1, 1, 1, tokens), np.float32)
    to_text, to_image = np.empty_like(keys), np.empty_like(image)
    kernels.bi_attention(image, (keys, bias, values), mask, (-LIMIT, LIMIT), to_text, to_image, precision, 1)
    np.testing.assert_allclose(to_text, 3.0, rtol=1e-3)
    np.testing.assert_allclose(to_image, 7.0 * NUM_HEADS, rtol=2e-3)


def attention(image, keys, bias, values, mask, limit) -> tuple[torch.Tensor, torch.Tensor]:
    image, keys, bias, values, mask = (torch.from_numpy(a).double() for a in (image, keys, bias, values, mask))
    scores = (keys @ image.transpose(1, 2) + bias).clamp(-limit, limit)  # (B, h*T, N)
    to_text = scores.softmax(-1) @ image
    by_head = scores.unflatten(1, (NUM_HEADS, -1)) + mask.transpose(2, 3)
    to_image = by_head.softmax(2).flatten(1, 2).transpose(1, 2) @ values
    return to_text.float(), to_image.float()


def test_the_formula_above_is_the_models() -> None:
    torch.manual_seed(0)
    module = BiMultiHeadAttention(HeadConfig(channels=64), 32).eval()
    v, text, mask = torch.randn(1, 50, 64), torch.randn(1, 4, 32), torch.tensor([[1, 1, 1, 0]])
    with torch.inference_mode():
        keys = module.l_proj(text).unflatten(2, (NUM_HEADS, -1)).transpose(1, 2) * module.scale
        folded = (keys @ module.v_proj.weight.view(NUM_HEADS, -1, 64)).flatten(1, 2)
        bias = (keys @ module.v_proj.bias.view(NUM_HEADS, -1, 1)).flatten(1, 2)
        out = module.out_v_proj.weight.T.reshape(NUM_HEADS, -1, 64)
        values = (module.values_l_proj(text).unflatten(2, (NUM_HEADS, -1)).transpose(1, 2) @ out).flatten(1, 2)
        added = torch.where(mask == 0, MASKED, 1.0)[:, None, None].float()
        _, to_image = attention(*(t.numpy() for t in (v, folded, bias, values, added)), LIMIT)
        expected, _ = module.plain(v, text, mask)
    assert_near((to_image + module.out_v_proj.bias).detach().numpy(), expected.detach(), 1e-5)
