"""The kernel of a layer of BERT against the model's own module, with GLIP's clamps and as the text encoder has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from kernel_checks import assert_near, precisions
from transformers import BertConfig as HuggingFaceBertConfig
from transformers.models.bert.modeling_bert import BertLayer

from glip_export.config import BertConfig, HeadConfig
from glip_export.model.bi_attention import LIMIT
from glip_export.model.text_encoder import padding_mask
from glip_export.model.text_layer import BertEncoderLayer
from glip_export.runtime.native import Kernels

UNLIMITED = (-3e38, 3e38, -3e38, 3e38)


def layer_of(channels: int, heads: int, hidden: int) -> BertEncoderLayer:
    torch.manual_seed(channels + heads)
    layer = BertEncoderLayer(
        HeadConfig(), BertConfig(hidden_size=channels, num_attention_heads=heads, intermediate_size=hidden)
    )
    with torch.no_grad():
        for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
            norm.weight.add_(torch.randn(channels) / 4)
            norm.bias.normal_(std=0.25)
        for projection in (layer.attention.self.query, layer.attention.self.key):
            projection.weight.mul_(3)  # scores that tell tokens apart
    return layer.eval()


def parameters_of(kernels: Kernels, layer: BertEncoderLayer, precision: str) -> list[np.ndarray]:
    attention, scale = (
        layer.attention,
        1 / math.sqrt(layer.attention.self.query.out_features // layer.attention.self.heads),
    )
    norms = (attention.output.LayerNorm, layer.output.LayerNorm)
    with torch.inference_mode():
        parameters = [each.numpy() for norm in norms for each in (norm.weight, norm.bias)]
        inputs = (attention.self.query, attention.self.key, attention.self.value)
        weight, bias = (
            torch.cat([getattr(part, name) * (scale if part is inputs[0] else 1) for part in inputs]).numpy()
            for name in ("weight", "bias")
        )
        others = (attention.output.dense, layer.intermediate.dense, layer.output.dense)
        for each in ((weight, bias), *((part.weight.numpy(), part.bias.numpy()) for part in others)):
            parameters += kernels.pack_layer(each, precision)
    return parameters


def run(
    kernels: Kernels,
    layer: BertEncoderLayer,
    x: torch.Tensor,
    mask: torch.Tensor,
    precision: str,
    threads: int,
    limits: tuple[float, float, float, float] = (-LIMIT, LIMIT, -LIMIT, LIMIT),
) -> np.ndarray:
    out = np.full_like(x.numpy(), np.nan)
    kernels.bert_layer(
        x.numpy(),
        padding_mask(mask, torch.float32).numpy(),
        out,
        parameters_of(kernels, layer, precision),
        layer.attention.self.heads,
        layer.intermediate.dense.out_features,
        limits,
        (layer.attention.output.LayerNorm.eps, layer.output.LayerNorm.eps),
        precision,
        threads,
    )
    return out


@pytest.mark.parametrize(
    ("batch", "tokens", "channels", "heads", "hidden"),
    [(1, 1, 32, 1, 16), (2, 10, 96, 3, 144), (1, 97, 64, 4, 128), (3, 70, 48, 3, 800), (1, 194, 208, 13, 32)],
)
def test_bert_layer(kernels: Kernels, batch: int, tokens: int, channels: int, heads: int, hidden: int) -> None:
    layer = layer_of(channels, heads, hidden)
    x, mask = torch.randn(batch, tokens, channels) + 0.5, torch.ones(batch, tokens, dtype=torch.int64)
    mask[-1, tokens // 2 + 1 :] = 0
    with torch.inference_mode():
        _, expected = layer((), x, mask)
    for precision, tolerance in precisions(kernels):
        results = [run(kernels, layer, x, mask, precision, threads) for threads in (1, 2, 5)]
        assert_near(results[0], expected, tolerance)
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])


def test_as_the_text_encoder_has_it(kernels: Kernels) -> None:
    ours, x, mask = layer_of(64, 2, 128), torch.randn(2, 9, 64), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 4:] = 0
    config = HuggingFaceBertConfig(
        hidden_size=64, num_attention_heads=2, intermediate_size=128, attn_implementation="eager"
    )
    theirs = BertLayer(config).eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        expected = theirs(x, padding_mask(mask, torch.float32))
    got = run(kernels, ours, x, mask, "fp32", 2, UNLIMITED)
    assert_near(got, expected[0] if isinstance(expected, tuple) else expected, 2e-5)


@pytest.mark.parametrize("place", range(2))
def test_clamps(kernels: Kernels, place: int) -> None:
    """Scores and the MLP's values go beyond what they are clamped to."""
    layer, x, mask = layer_of(64, 2, 128), torch.randn(1, 20, 64), torch.ones(1, 20, dtype=torch.int64)
    part = layer.attention.self.query if place == 0 else layer.intermediate.dense
    with torch.no_grad():
        part.weight.mul_(1e5)
    with torch.inference_mode():
        _, expected = layer((), x, mask)
    assert_near(run(kernels, layer, x, mask, "fp32", 1), expected, 2e-5)
    free = run(kernels, layer, x, mask, "fp32", 1, UNLIMITED)
    assert np.abs(free - expected.numpy()).max() > 1e-3


def test_a_value_far_from_the_others_coarsens_its_own_piece_only(kernels: Kernels) -> None:
    """A row has a scale for each piece of its depth: BERT's hidden states have channels many times the others."""
    layer = layer_of(64, 2, 2048)
    x, mask = torch.randn(1, 7, 64), torch.ones(1, 7, dtype=torch.int64)
    with torch.no_grad():
        layer.intermediate.dense.bias[0] = 3000.0
        layer.output.dense.weight[:, :512] = 0  # more than a piece
    with torch.inference_mode():
        _, expected = layer((), x, mask)
    for precision, tolerance in precisions(kernels, ("int16",)):
        assert_near(run(kernels, layer, x, mask, precision, 1), expected, tolerance)
