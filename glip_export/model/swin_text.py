"""The last stage of Swin's versions vl and v2_vl: image and text attend to each other, and both come out changed."""

from __future__ import annotations

import torch
from torch import nn

from glip_export.config import SwinConfig, TextConfig
from glip_export.model.swin_block import Block, Mlp, WindowAttention, scaled
from glip_export.model.text_encoder import padding_mask

Attended = tuple[torch.Tensor, torch.Tensor]  # text (B, T, L) and its attention mask, int64 (B, T)
LAST = 3  # the stage


class TextStage(nn.Module):
    """The last stage's blocks."""

    def __init__(self, config: SwinConfig, text: TextConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TextBlock(config, text, place) for place in range(config.depths[LAST]))

    def forward(self, x: torch.Tensor, attended: Attended) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, H, W, C) -> the same shape, and the text (B, T, L)."""
        text, attention_mask = attended
        mask = padding_mask(attention_mask, text.dtype)
        for block in self.blocks:
            x, text = block(x, text, mask)
        return x, text


class TextBlock(Block):
    """A block of the image, and beside it one of the text; they share the attention."""

    def __init__(self, config: SwinConfig, text: TextConfig, place: int) -> None:
        super().__init__(config, LAST, place)
        dim, text_dim = config.embed_dim * 2**LAST, text.bert.hidden_size
        self.attn = TextWindowAttention(dim, config.num_heads[LAST], config.window_size, text)
        self.norm1_text = nn.LayerNorm(text_dim)
        self.norm2_text = nn.LayerNorm(text_dim)
        self.mlp_text = Mlp(text_dim, int(text_dim * config.mlp_ratio))
        self.gamma_text = None if self.gamma is None else nn.Parameter(torch.full((text_dim,), 1e-4))

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, text: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, H, W, C), (B, T, L), what is added to scores of tokens (B, 1, 1, T) -> (B, H, W, C), (B, T, L)."""
        y, shift_mask = self.to_windows(self.norm1(x))
        y, delta = self.attn(y, self.norm1_text(text), shift_mask, mask)
        x = x + scaled(self.from_windows(y, x.shape), self.gamma)
        x = x + scaled(self.mlp(self.norm2(x)), self.gamma)
        text = text + scaled(delta, self.gamma_text)
        return x, text + scaled(self.mlp_text(self.norm2_text(text)), self.gamma_text)


class TextWindowAttention(WindowAttention):
    """Positions attend to their window and to the tokens; tokens to every window's positions and to the tokens.

    Each in one softmax. The zeros that pad the windows are attended too, by tokens as by positions.
    """

    def __init__(self, dim: int, heads: int, window: int, text: TextConfig) -> None:
        super().__init__(dim, heads, window)
        text_dim, tokens = text.bert.hidden_size, text.max_query_len
        self.qkv_text = nn.Linear(text_dim, 3 * dim)
        self.proj_text = nn.Linear(dim, text_dim)
        self.i2t_relative_position_bias = nn.Parameter(torch.zeros(2, heads, tokens))
        self.t2t_relative_position_bias = nn.Parameter(torch.zeros(heads, tokens, tokens))

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, text: torch.Tensor, shift_mask: torch.Tensor | None, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, windows, n, C), (B, T, L), (windows, n, n), (B, 1, 1, T) -> (B, windows, n, C), (B, T, L)."""
        batch, windows, n, dim = x.shape
        tokens = text.shape[1]
        qkv = self.qkv(x).view(batch, windows, n, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # (B, windows, heads, n, d) each
        qkv_text = self.qkv_text(text).view(batch, tokens, 3, self.heads, dim // self.heads)
        q_text, k_text, v_text = qkv_text.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, T, d) each
        q, q_text = q * self.scale, q_text * self.scale
        by_position, by_token = self.i2t_relative_position_bias[:, :, :tokens].unbind(0)  # (heads, T) each

        inside = q @ k.transpose(-2, -1) + self.relative_position_bias()  # (B, windows, heads, n, n)
        if shift_mask is not None:
            inside = inside + shift_mask[:, None]
        to_tokens = q @ k_text.transpose(-2, -1)[:, None] + (by_position[:, None] + mask)[:, None]
        of_image, of_tokens = torch.cat((inside, to_tokens), -1).softmax(-1).split((n, tokens), -1)
        y = of_image @ v + of_tokens @ v_text[:, None]

        k, v = (part.transpose(1, 2).flatten(2, 3) for part in (k, v))  # (B, heads, windows*n, d)
        to_image = q_text @ k.transpose(-2, -1) + by_token[:, :, None]
        between = q_text @ k_text.transpose(-2, -1) + self.t2t_relative_position_bias[:, :tokens, :tokens] + mask
        of_image, of_tokens = torch.cat((to_image, between), -1).softmax(-1).split((windows * n, tokens), -1)
        delta = (of_image @ v + of_tokens @ v_text).transpose(1, 2).flatten(2)  # (B, T, C)
        return self.proj(y.transpose(2, 3).reshape(batch, windows, n, dim)), self.proj_text(delta)
