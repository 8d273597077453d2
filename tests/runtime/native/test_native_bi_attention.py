"""The bi-attention kernel against its formula, and that against the model's own module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_checks import assert_near, precisions

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
    for bf16, tolerance in precisions(kernels):
        for threads in (1, 3):
            to_text, to_image = np.full_like(keys, np.nan), np.full_like(image, np.nan)
            kernels.bi_attention(image, (keys, bias, values), mask, (-LIMIT, LIMIT), to_text, to_image, bf16, threads)
            for got, want in zip((to_text, to_image), expected, strict=True):
                assert_near(got, want, tolerance if not bf16 else 5 * tolerance)  # scores of ten and more, rounded


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
        kernels.bi_attention(image, (keys, bias, values), mask, (-limit, limit), to_text, to_image, False, 2)
        for got, want in zip((to_text, to_image), attention(image, keys, bias, values, mask, limit), strict=True):
            assert np.isfinite(got).all()
            assert_near(got, want, 1e-3)  # one score's last bit is 0.004


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
