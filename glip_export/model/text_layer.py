"""BertEncoderLayer: the text's own layer between two fusions, BERT's with GLIP's clamps."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from glip_export.config import BertConfig, HeadConfig
from glip_export.model.bi_attention import LIMIT
from glip_export.model.text_encoder import padding_mask
from glip_export.model.vl_fuse import Features


class BertEncoderLayer(nn.Module):
    """Self attention and feed-forward on the text; the pyramid passes through."""

    def __init__(self, config: HeadConfig, bert: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config, bert)
        self.intermediate = Projection(bert.hidden_size, bert.intermediate_size)
        self.output = ResidualProjection(bert.intermediate_size, bert.hidden_size, bert.layer_norm_eps)

    def forward(
        self, features: Features, text: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[Features, torch.Tensor]:
        """P3..P7, (B, T, L), (B, T) -> P3..P7 as given, (B, T, L)."""
        text = self.attention(text, attention_mask)
        hidden = _clamp(F.gelu(_clamp(self.intermediate.dense(text))))
        return features, _clamp(self.output.LayerNorm(_clamp(self.output.dense(hidden)) + text))


class PassThrough(nn.Module):
    """Stands where the last BertEncoderLayer would, if the fused text is not used after it."""

    def forward(
        self, features: Features, text: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[Features, torch.Tensor]:
        """Everything as given."""
        return features, text


class Attention(nn.Module):
    """Multi-head self attention with its residual and LayerNorm."""

    def __init__(self, config: HeadConfig, bert: BertConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config, bert)
        self.output = ResidualProjection(bert.hidden_size, bert.hidden_size, bert.layer_norm_eps)

    def forward(self, text: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, T, L), (B, T) -> (B, T, L)."""
        return self.output.LayerNorm(self.output.dense(self.self(text, attention_mask)) + text)


class SelfAttention(nn.Module):
    """Scaled dot product attention; scores clamped before the mask is added."""

    def __init__(self, config: HeadConfig, bert: BertConfig) -> None:
        super().__init__()
        self.heads = bert.num_attention_heads
        self.limits = (-LIMIT if config.clamp_text_min else None, LIMIT if config.clamp_text_max else None)
        self.query = nn.Linear(bert.hidden_size, bert.hidden_size)
        self.key = nn.Linear(bert.hidden_size, bert.hidden_size)
        self.value = nn.Linear(bert.hidden_size, bert.hidden_size)

    def forward(self, text: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, T, L), (B, T) -> (B, T, L)."""
        q, k, v = (
            projection(text).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )  # (B, heads, T, d) each
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        if self.limits != (None, None):
            scores = scores.clamp(*self.limits)
        probabilities = (scores + padding_mask(attention_mask, scores.dtype)).softmax(-1)
        return (probabilities @ v).transpose(1, 2).flatten(2)


class Projection(nn.Module):
    """A linear layer under the checkpoint's name `dense`."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_dim, out_dim)


class ResidualProjection(Projection):
    """A linear layer whose output, added to a residual, goes through `LayerNorm`."""

    def __init__(self, in_dim: int, out_dim: int, eps: float) -> None:
        super().__init__(in_dim, out_dim)
        self.LayerNorm = nn.LayerNorm(out_dim, eps=eps)


def _clamp(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-LIMIT, LIMIT)  # GLIP clamps these whatever the configuration says
