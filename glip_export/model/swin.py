"""Swin Transformer (Liu et al., ICCV 2021) as GLIP runs it: any picture size, windows padded with zeros.

MODEL.SWINT.VERSION names its variants. v2 is not the published Swin V2: its patches overlap and convolutions join its
stages. In vl and v2_vl the last stage attends to the text (swin_text.py).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from glip_export.config import SwinConfig, TextConfig
from glip_export.model.swin_block import Block, round_up
from glip_export.model.swin_text import Attended, TextStage

PRETRAINED_SIZE = 224  # pixels: what a position embedding is laid out for (GLIP: pretrain_img_size)


class Swin(nn.Module):
    """Pictures to the stage outputs C3, C4, C5 (strides 8, 16, 32), each through its own LayerNorm."""

    def __init__(self, config: SwinConfig, text: TextConfig) -> None:
        super().__init__()
        dims = [config.embed_dim * 2**stage for stage in range(4)]
        self.patch_embed = OverlappingPatchEmbed(config.embed_dim) if config.is_v2 else PatchEmbed(config.embed_dim)
        self.layers = nn.ModuleList(Stage(config, stage) for stage in range(3))
        self.layers.append(TextStage(config, text) if config.fuses_text else Stage(config, 3))
        if config.position_embedding:
            side = PRETRAINED_SIZE // self.patch_embed.proj.kernel_size[0]
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, config.embed_dim, side, side))
        self.has_norms = config.output_norms or not config.is_v2
        if self.has_norms:
            self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for dim in dims[1:])

    def forward(self, images: torch.Tensor, attended: Attended | None = None) -> tuple[torch.Tensor, ...]:
        """(B, 3, H, W), H and W multiples of 32 -> C3, C4, C5 as (B, C, H/s, W/s).

        attended: the text for a last stage that fuses it, which then follows in what is returned, (B, T, L).
        """
        x = self.embed(images)
        norms = (None, self.norm1, self.norm2, self.norm3) if self.has_norms else (None, *[nn.Identity()] * 3)
        outputs = []
        text: tuple[torch.Tensor, ...] = ()
        for stage, norm in zip(self.layers, norms, strict=True):
            if isinstance(stage, TextStage):
                stage_output, *text = stage(x, attended)
            else:
                stage_output, x = stage(x)  # the next stage gets the un-normed tensor
            if norm is not None:
                outputs.append(norm(stage_output).permute(0, 3, 1, 2))
        return (*outputs, *text)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> patches (B, H/4, W/4, C), with their positions where those are embedded."""
        x = self.patch_embed(images)
        if not hasattr(self, "absolute_pos_embed"):
            return x
        positions = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic", align_corners=False)
        return x + positions.permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """4x4 patches, projected and normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, H/4, W/4, C)."""
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class OverlappingPatchEmbed(nn.Module):
    """v2: 7x7 patches every 4 pixels of a picture that is first padded to a multiple of 7."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=7, stride=4, padding=2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, (7*ceil(H/7) - 3)//4 + 1, the same of W, C)."""
        height, width = images.shape[2:]
        images = F.pad(images, (0, round_up(width, 7) - width, 0, round_up(height, 7) - height))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks with plain and shifted windows in turn, then what joins it to the next (but for the last stage)."""

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, stage, i) for i in range(config.depths[stage]))
        join = ConvDownsample if config.is_v2 else PatchMerging
        self.downsample = None if stage == 3 else join(config.embed_dim * 2**stage)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, H, W, C) -> the stage's output (B, H, W, C) and the next stage's input (B, H/2, W/2, 2C)."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.downsample is None else self.downsample(x)


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


class ConvDownsample(nn.Module):
    """v2: a 3x3 convolution with stride 2 to twice the channels, normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H/2, W/2, 2C), rounded up."""
        return self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
