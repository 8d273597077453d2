"""Swin Transformer v1 (Liu et al., ICCV 2021) as GLIP runs it: any picture size, windows padded with zeros."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from glip_export.config import SwinConfig


class Swin(nn.Module):
    """Pictures to the stage outputs C3, C4, C5 (strides 8, 16, 32), each through its own LayerNorm."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        dims = [config.embed_dim * 2**stage for stage in range(4)]
        self.patch_embed = PatchEmbed(config.embed_dim)
        self.layers = nn.ModuleList(
            Stage(dims[i], config.depths[i], config.num_heads[i], config.window_size, config.mlp_ratio, last=i == 3)
            for i in range(4)
        )
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for dim in dims[1:])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, H, W), H and W multiples of 32 -> C3, C4, C5 as (B, C, H/s, W/s)."""
        x = self.patch_embed(images)  # (B, H/4, W/4, C)
        outputs = []
        for stage, norm in zip(self.layers, (None, self.norm1, self.norm2, self.norm3), strict=True):
            stage_output, x = stage(x)  # the next stage gets the un-normed tensor
            if norm is not None:
                outputs.append(norm(stage_output).permute(0, 3, 1, 2))
        return tuple(outputs)


class PatchEmbed(nn.Module):
    """4x4 patches, projected and normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, H/4, W/4, C)."""
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks with plain and shifted windows in turn, then patch merging (but for the last stage)."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, mlp_ratio: float, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim, heads, window, shift=window // 2 if i % 2 else 0, mlp_ratio=mlp_ratio) for i in range(depth)
        )
        self.downsample = None if last else PatchMerging(dim)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, H, W, C) -> the stage's output (B, H, W, C) and the next stage's input (B, H/2, W/2, 2C)."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.downsample is None else self.downsample(x)


class Block(nn.Module):
    """Window attention and MLP, each behind a LayerNorm, each with a residual."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, mlp_ratio: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        batch, height, width, dim = x.shape
        window = self.window
        padded_height, padded_width = _round_up(height, window), _round_up(width, window)
        rows, columns = padded_height // window, padded_width // window
        # The padding comes after the norm and is not masked: it takes part in attention as zeros.
        y = F.pad(self.norm1(x), (0, 0, 0, padded_width - width, 0, padded_height - height))
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = y.view(batch, rows, window, columns, window, dim).transpose(2, 3).reshape(batch, -1, window * window, dim)
        mask = shifted_window_mask(rows, columns, window, self.shift, y) if self.shift else None
        y = self.attn(y, mask)  # (B, windows, window*window, C)
        y = y.view(batch, rows, columns, window, window, dim).transpose(2, 3)
        y = y.reshape(batch, padded_height, padded_width, dim)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y[:, :height, :width]
        return x + self.mlp(self.norm2(x))


def _round_up(size: int, divisor: int) -> int:
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


class PatchMerging(nn.Module):
    """2x2 neighbours concatenated and projected to twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C), H and W even -> (B, H/2, W/2, 2C)."""
        batch, height, width, dim = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, dim)
        # In the order [0::2, 0::2], [1::2, 0::2], [0::2, 1::2], [1::2, 1::2]: columns before rows.
        x = x.permute(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * dim)
        return self.reduction(self.norm(x))
