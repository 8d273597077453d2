"""Bi-directional cross attention between the image's positions and the prompt's tokens (GLIP's MHA-B).

Two forms of the same mathematics stand side by side. `BiMultiHeadAttention.plain` is the published one: three
projections of all N image positions into 2048 channels. `BiMultiHeadAttention.folded` moves them to the text side,
where there are T tokens instead of N positions (T = 4..256, N = 20 267 at 800x1216); nothing is projected over N.
"""

from __future__ import annotations

import torch
from torch import nn

from glip_export.config import HeadConfig

EMBED_DIM = 2048  # GLIP: VLFuse.embed_dim
NUM_HEADS = 8  # GLIP: VLFuse.n_head
LIMIT = 50000.0  # GLIP: clamps "for half's limited range"
MASKED = -9e15  # GLIP: what is added to the score of a padded token


class BiAttentionBlock(nn.Module):
    """LayerNorm on both sides, attention both ways, layer scale; the residual is on the normed value."""

    def __init__(self, config: HeadConfig, text_dim: int) -> None:
        super().__init__()
        self.layer_norm_v = nn.LayerNorm(config.channels)
        self.layer_norm_l = nn.LayerNorm(text_dim)
        self.attn = BiMultiHeadAttention(config, text_dim)
        self.gamma_v = nn.Parameter(torch.full((config.channels,), 1.0 / config.num_convs))
        self.gamma_l = nn.Parameter(torch.full((text_dim,), 1.0 / config.num_convs))

    def forward(
        self, v: torch.Tensor, text: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, C), (B, T, L), (B, T) -> (B, N, C), (B, T, L)."""
        v, text = self.layer_norm_v(v), self.layer_norm_l(text)
        delta_v, delta_text = self.attn(v, text, attention_mask)
        return v + self.gamma_v * delta_v, text + self.gamma_l * delta_text


class BiMultiHeadAttention(nn.Module):
    """One score matrix, two softmaxes: image positions read tokens, tokens read image positions."""

    def __init__(self, config: HeadConfig, text_dim: int) -> None:
        super().__init__()
        self.clamp_min = -LIMIT if config.clamp_fusion_min else None
        self.clamp_max = LIMIT if config.clamp_fusion_max else None
        self.stable_softmax = config.stable_softmax
        self.scale = (EMBED_DIM // NUM_HEADS) ** -0.5
        self.folds = False
        self.v_proj = nn.Linear(config.channels, EMBED_DIM)
        self.l_proj = nn.Linear(text_dim, EMBED_DIM)
        self.values_v_proj = nn.Linear(config.channels, EMBED_DIM)
        self.values_l_proj = nn.Linear(text_dim, EMBED_DIM)
        self.out_v_proj = nn.Linear(EMBED_DIM, config.channels)
        self.out_l_proj = nn.Linear(EMBED_DIM, text_dim)

    def forward(
        self, v: torch.Tensor, text: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, C), (B, T, L), int64 (B, T) -> what each side gains, (B, N, C) and (B, T, L)."""
        form = self.folded if self.folds else self.plain
        return form(v, text, attention_mask)

    def plain(
        self, v: torch.Tensor, text: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The published form."""
        queries = heads(self.v_proj(v) * self.scale)  # (B, h, N, d)
        keys = heads(self.l_proj(text))  # (B, h, T, d)
        to_image, to_text = self._attention(queries @ keys.transpose(2, 3), attention_mask)
        delta_v = to_image @ heads(self.values_l_proj(text))  # (B, h, N, d)
        delta_text = to_text @ heads(self.values_v_proj(v))  # (B, h, T, d)
        return self.out_v_proj(join(delta_v)), self.out_l_proj(join(delta_text))

    def folded(
        self, v: torch.Tensor, text: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same without a projection over the N image positions.

        Per head, with K the projected keys: scores = v (Wq^T K^T) + bq K^T; image side: P (V Wo^T); text side, after
        the product: (P^T v) Wv^T + bv, the rows of P^T summing to one.
        """
        keys = heads(self.l_proj(text)) * self.scale  # (B, h, T, d); the scale goes into the small operand
        folded_keys = (keys @ per_head(self.v_proj.weight)).flatten(1, 2)  # (B, h*T, C)
        folded_bias = (keys @ self.v_proj.bias.view(NUM_HEADS, -1, 1)).flatten(1, 2)  # (B, h*T, 1)
        # Text side first: matrix products run faster with the N positions as columns than as rows.
        scores = self._clamp(self._stable(folded_keys @ v.transpose(1, 2) + folded_bias))  # (B, h*T, N)

        # The published form also subtracts the row's maximum and clamps: softmax subtracts it by itself, and what a
        # clamp at -50000 changes has an exponential of zero either way.
        pooled = (scores.softmax(-1) @ v).unflatten(1, (NUM_HEADS, -1))  # (B, h, T, C)
        delta_text = pooled @ per_head(self.values_v_proj.weight).transpose(1, 2)  # (B, h, T, d)
        delta_text = delta_text + self.values_v_proj.bias.view(NUM_HEADS, 1, -1)

        by_position = scores.transpose(1, 2).unflatten(2, (NUM_HEADS, -1))  # (B, N, h, T)
        to_image = (by_position + added_mask(attention_mask, scores.dtype)).softmax(-1).flatten(2)  # (B, N, h*T)
        out_weight = self.out_v_proj.weight.T.reshape(NUM_HEADS, -1, v.shape[2])  # (h, d, C)
        folded_values = heads(self.values_l_proj(text)) @ out_weight  # (B, h, T, C)
        delta_v = to_image @ folded_values.flatten(1, 2) + self.out_v_proj.bias  # the product sums over the heads
        return delta_v, self.out_l_proj(join(delta_text))

    def _attention(self, scores: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B, h, N, T) -> over tokens for the image (B, h, N, T), over positions for the text (B, h, T, N)."""
        scores = self._clamp(self._stable(scores))
        to_image = (scores + added_mask(attention_mask, scores.dtype)).softmax(-1)  # only this side is masked
        transposed = scores.transpose(2, 3)
        to_text = self._clamp(transposed - transposed.amax(-1, keepdim=True)).softmax(-1)
        return to_image, to_text

    def _stable(self, scores: torch.Tensor) -> torch.Tensor:
        return scores - scores.max() if self.stable_softmax else scores  # over the whole batch (STABLE_SOFTMAX_2D)

    def _clamp(self, scores: torch.Tensor) -> torch.Tensor:
        return clamp(scores, self.clamp_min, self.clamp_max)


def clamp(scores: torch.Tensor, low: float | None, high: float | None) -> torch.Tensor:
    """The scores within the limits that there are."""
    return scores if low is None and high is None else scores.clamp(low, high)


def added_mask(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the image side's scores, (B, 1, 1, T): GLIP's integer mask, whose +1 changes nothing."""
    mask = attention_mask[:, None, None, :].to(dtype)
    return torch.where(mask == 0, MASKED, mask)


def heads(x: torch.Tensor) -> torch.Tensor:
    """(B, n, h*d) -> (B, h, n, d)."""
    return x.unflatten(2, (NUM_HEADS, -1)).transpose(1, 2)


def join(x: torch.Tensor) -> torch.Tensor:
    """(B, h, n, d) -> (B, n, h*d)."""
    return x.transpose(1, 2).flatten(2)


def per_head(weight: torch.Tensor) -> torch.Tensor:
    """A projection's weight (h*d, C) -> (h, d, C)."""
    return weight.view(NUM_HEADS, -1, weight.shape[1])
