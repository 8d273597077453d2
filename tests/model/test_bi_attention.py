"""The folded form equals the published one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from glip_export.config import HeadConfig
from glip_export.model.bi_attention import BiAttentionBlock
from glip_export.parity.metrics import compare

CONFIG = HeadConfig(channels=256)


def block(config: HeadConfig, gain: float = 1.0, text_dim: int = 768) -> BiAttentionBlock:
    torch.manual_seed(0)
    made = BiAttentionBlock(config, text_dim)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name.endswith("bias"):
                value.normal_(0, 0.1)
            elif "v_proj.weight" in name or "l_proj.weight" in name:
                value.mul_(gain)
    return made.requires_grad_(False)


@pytest.mark.parametrize("tokens", [3, 6, 16, 64, 194, 256])
@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_folded_equals_plain(tokens: int, gain: float) -> None:
    made = block(CONFIG, gain)
    v, text = torch.randn(2, 700, 256) * 3, torch.randn(2, tokens, 768) * 3
    mask = torch.ones(2, tokens, dtype=torch.int64)
    mask[1, tokens // 2 + 1 :] = 0
    plain = made(v, text, mask)
    made.attn.folds = True
    for theirs, ours in zip(plain, made(v, text, mask), strict=True):
        assert compare(theirs.numpy(), ours.numpy()).relative < 1e-5


@pytest.mark.parametrize(("low", "high"), [(True, True), (True, False), (False, True), (False, False)])
def test_folded_equals_plain_where_clamps_bite(low: bool, high: bool) -> None:
    config = replace(CONFIG, clamp_fusion_min=low, clamp_fusion_max=high)
    made = block(config, gain=400.0)
    v, text = torch.randn(1, 50, 256), torch.randn(1, 4, 768)
    mask = torch.ones(1, 4, dtype=torch.int64)
    queries = (made.attn.v_proj(made.layer_norm_v(v)) * made.attn.scale).unflatten(2, (8, -1))
    keys = made.attn.l_proj(made.layer_norm_l(text)).unflatten(2, (8, -1))
    scores = torch.einsum("bnhd,bthd->bhnt", queries, keys)
    assert scores.min() < -50000 and scores.max() > 50000  # or the case shows nothing
    double = made.double()  # at 1e5 a score's last bit is 0.01, which a softmax shows
    plain = double(v.double(), text.double(), mask)
    double.attn.folds = True
    for theirs, ours in zip(plain, double(v.double(), text.double(), mask), strict=True):
        assert compare(theirs.numpy(), ours.numpy()).relative < 1e-5


def test_stable_softmax_changes_nothing_but_the_clamps() -> None:
    v, text = torch.randn(1, 40, 256), torch.randn(1, 5, 768)
    mask = torch.ones(1, 5, dtype=torch.int64)
    plain = block(CONFIG)(v, text, mask)
    stable = block(replace(CONFIG, stable_softmax=True))(v, text, mask)
    for theirs, ours in zip(plain, stable, strict=True):
        assert compare(theirs.numpy(), ours.numpy()).relative < 1e-5


def test_padded_tokens_are_never_read() -> None:
    made = block(CONFIG)
    v, text = torch.randn(1, 40, 256), torch.randn(1, 9, 768)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0, 0]])
    padded = made(v, text, mask)
    trimmed = made(v, text[:, :5], mask[:, :5])
    assert compare(trimmed[0].numpy(), padded[0].numpy()).relative < 1e-6
    assert compare(trimmed[1].numpy(), padded[1][:, :5].numpy()).relative < 1e-6
