"""Cross attention in which the image's positions read the prompt's tokens, and the text is left alone (GLIP's MHA-S).

As in bi_attention.py a plain and a folded form stand side by side.
"""

from __future__ import annotations

import torch
from torch import nn

from glip_export.config import HeadConfig
from glip_export.model.bi_attention import EMBED_DIM, LIMIT, NUM_HEADS, added_mask, clamp, heads, join, per_head


class ImageAttentionBlock(nn.Module):
    """LayerNorm on both sides, attention, layer scale where it is on; the residual is on the normed value."""

    def __init__(self, config: HeadConfig, text_dim: int) -> None:
        super().__init__()
        self.layer_norm_q_1 = nn.LayerNorm(config.channels)
        self.layer_norm_k_1 = nn.LayerNorm(text_dim)
        self.attn = ImageAttention(config, text_dim)
        self.gamma = (
            nn.Parameter(torch.full((config.channels,), 1.0 / config.num_convs)) if config.layer_scale else None
        )

    def forward(
        self, v: torch.Tensor, text: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, C) of one level, (B, T, L), (B, T) -> (B, N, C), and the normed text, which the next level is given.

        So P3 reads the text normed once and P7 normed five times, always with the same weights.
        """
        v, text = self.layer_norm_q_1(v), self.layer_norm_k_1(text)
        delta = self.attn(v, text, attention_mask)
        return v + (delta if self.gamma is None else self.gamma * delta), text


class ImageAttention(nn.Module):
    """Multi-head attention of positions over tokens."""

    def __init__(self, config: HeadConfig, text_dim: int) -> None:
        super().__init__()
        self.clamp_min = -LIMIT if config.clamp_fusion_min else None
        self.clamp_max = LIMIT if config.clamp_fusion_max else None
        self.scale = (EMBED_DIM // NUM_HEADS) ** -0.5
        self.folds = False
        self.q_proj = nn.Linear(config.channels, EMBED_DIM)
        self.k_proj = nn.Linear(text_dim, EMBED_DIM)
        self.v_proj = nn.Linear(text_dim, EMBED_DIM)
        self.out_proj = nn.Linear(EMBED_DIM, config.channels)

    def forward(self, v: torch.Tensor, text: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, N, C), (B, T, L), int64 (B, T) -> what the image gains, (B, N, C)."""
        form = self.folded if self.folds else self.plain
        return form(v, text, attention_mask)

    def plain(self, v: torch.Tensor, text: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The published form."""
        queries = heads(self.q_proj(v) * self.scale)  # (B, h, N, d)
        scores = self._clamp(queries @ heads(self.k_proj(text)).transpose(2, 3))  # (B, h, N, T)
        probabilities = (scores + added_mask(attention_mask, scores.dtype)).softmax(-1)
        return self.out_proj(join(probabilities @ heads(self.v_proj(text))))

    def folded(self, v: torch.Tensor, text: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The same without a projection over the N positions: per head v (Wq^T K^T) + bq K^T, and P (V Wo^T)."""
        keys = heads(self.k_proj(text)) * self.scale  # (B, h, T, d)
        folded_keys = (keys @ per_head(self.q_proj.weight)).flatten(1, 2)  # (B, h*T, C)
        folded_bias = (keys @ self.q_proj.bias.view(NUM_HEADS, -1, 1)).flatten(1, 2).transpose(1, 2)  # (B, 1, h*T)
        scores = self._clamp(v @ folded_keys.transpose(1, 2) + folded_bias).unflatten(2, (NUM_HEADS, -1))
        probabilities = (scores + added_mask(attention_mask, scores.dtype)).softmax(-1).flatten(2)  # (B, N, h*T)
        out_weight = self.out_proj.weight.T.reshape(NUM_HEADS, -1, v.shape[2])  # (h, d, C)
        folded_values = (heads(self.v_proj(text)) @ out_weight).flatten(1, 2)  # (B, h*T, C)
        return probabilities @ folded_values + self.out_proj.bias

    def _clamp(self, scores: torch.Tensor) -> torch.Tensor:
        return clamp(scores, self.clamp_min, self.clamp_max)
