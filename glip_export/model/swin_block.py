"""Swin's block: attention within windows, plain or shifted, and an MLP."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from glip_export.config import SwinConfig


class Block(nn.Module):
    """Window attention and MLP, each behind a LayerNorm, each with a residual."""

    def __init__(self, config: SwinConfig, stage: int, place: int) -> None:
        super().__init__()
        dim, self.window = config.embed_dim * 2**stage, config.window_size
        self.shift = self.window // 2 if place % 2 else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, config.num_heads[stage], self.window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.gamma = nn.Parameter(torch.full((dim,), 1e-4)) if config.is_v2 and config.layer_scale else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        y, mask = self.to_windows(self.norm1(x))
        x = x + scaled(self.from_windows(self.attn(y, mask), x.shape), self.gamma)
        return x + scaled(self.mlp(self.norm2(x)), self.gamma)

    def to_windows(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, H, W, C) -> (B, windows, window^2, C), and the mask of shifted windows."""
        batch, height, width, dim = y.shape
        window = self.window
        padded_height, padded_width = round_up(height, window), round_up(width, window)
        rows, columns = padded_height // window, padded_width // window
        # The padding comes after the norm and is not masked: it takes part in attention as zeros.
        y = F.pad(y, (0, 0, 0, padded_width - width, 0, padded_height - height))
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = y.view(batch, rows, window, columns, window, dim).transpose(2, 3).reshape(batch, -1, window * window, dim)
        return y, shifted_window_mask(rows, columns, window, self.shift, y) if self.shift else None

    def from_windows(self, y: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """(B, windows, window^2, C) -> shape, (B, H, W, C), without what padded it."""
        batch, height, width, dim = shape
        window = self.window
        padded_height, padded_width = round_up(height, window), round_up(width, window)
        y = y.view(batch, padded_height // window, padded_width // window, window, window, dim).transpose(2, 3)
        y = y.reshape(batch, padded_height, padded_width, dim)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        return y[:, :height, :width]


def scaled(x: torch.Tensor, gamma: torch.Tensor | None) -> torch.Tensor:
    """x (..., C) times its layer scale (C,), where there is one."""
    return x if gamma is None else gamma * x


def round_up(size: int, divisor: int) -> int:
    """To a multiple of the divisor."""
    return (size + divisor - 1) // divisor * divisor


def shifted_window_mask(rows: int, columns: int, window: int, shift: int, like: torch.Tensor) -> torch.Tensor:
    """-100 between positions that the cyclic shift brought together from afar: (windows, window^2, window^2).

    Of the dtype of `like`, and on its device.
    """
    region_y = _regions(rows, window, shift, like.device).view(rows, 1, window, 1)
    region_x = _regions(columns, window, shift, like.device).view(1, columns, 1, window)
    region = (3 * region_y + region_x).reshape(rows * columns, window * window)
    return (region[:, :, None] != region[:, None, :]).to(like.dtype) * -100.0


def _regions(windows: int, window: int, shift: int, device: torch.device) -> torch.Tensor:
    """0 before the last window, 1 in it, 2 in its last `shift` positions: (windows*window,)."""
    position = torch.arange(windows * window, device=device)
    return (position >= windows * window - window).long() + (position >= windows * window - shift).long()


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias for each relative position."""

    relative_position_index: torch.Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_position_index(window), persistent=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, windows, n, C), (windows, n, n) -> (B, windows, n, C)."""
        batch, windows, n, dim = x.shape
        qkv = self.qkv(x).view(batch, windows, n, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # (B, windows, heads, n, C/heads) each
        attention = (q * self.scale) @ k.transpose(-2, -1) + self.relative_position_bias()
        if mask is not None:
            attention = attention + mask[:, None]
        y = attention.softmax(-1) @ v
        return self.proj(y.transpose(2, 3).reshape(batch, windows, n, dim))

    def relative_position_bias(self) -> torch.Tensor:
        """(heads, n, n)."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)


def _relative_position_index(window: int) -> torch.Tensor:
    """Row of the bias table for each pair of positions in a window: int64 (window^2, window^2)."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return (y[:, None] - y[None, :] + window - 1) * (2 * window - 1) + x[:, None] - x[None, :] + window - 1


class Mlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))
