"""VLFuse: where the pyramid meets the text, once a block of the tower, in the way that FUSE_CONFIG.TYPE names."""

from __future__ import annotations

import torch
from torch import nn

from glip_export.config import HeadConfig
from glip_export.model.bi_attention import BiAttentionBlock
from glip_export.model.image_attention import ImageAttentionBlock

LEVELS = 5  # of the pyramid

Features = tuple[torch.Tensor, ...]  # P3..P7, each (B, C, Hl, Wl)


class VLFuse(nn.Module):
    """Fuses the pyramid with the text; the text's own layer follows in the tower.

    MHA-B: image and text attend to each other, over all levels at once or (SEPARATE_BIDIRECTIONAL) level by level.
    MHA-S: the image alone attends; the text goes on as it came. Under any other name nothing is fused.
    """

    def __init__(self, config: HeadConfig, text_dim: int) -> None:
        super().__init__()
        self.separate = config.separates_levels
        self.shrinks_outside = config.shrinks_text_outside
        if config.fusion == "MHA-B":
            self.b_attn = BiAttentionBlock(config, text_dim)
            if self.separate:  # the checkpoint has it on one of two floors; the arithmetic is the same
                (self if self.shrinks_outside else self.b_attn).add_module("shrink_lang", ShrinkText(text_dim))
        elif config.fusion == "MHA-S":
            self.t2i_attn = ImageAttentionBlock(config, text_dim)
        self.fusion = config.fusion

    def forward(
        self, features: Features, text: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[Features, torch.Tensor]:
        """P3..P7, (B, T, L), (B, T) -> the same shapes, fused."""
        if self.fusion == "MHA-S":
            return self._image_reads(features, text, attention_mask), text
        if self.fusion != "MHA-B":
            return features, text
        return (self._separate if self.separate else self._joint)(features, text, attention_mask)

    def _joint(
        self, features: Features, text: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[Features, torch.Tensor]:
        v = torch.cat([level.flatten(2) for level in features], dim=2).transpose(1, 2)  # (B, N, C)
        v, text = self.b_attn(v, text, attention_mask)
        levels = v.transpose(1, 2).split([level.shape[2] * level.shape[3] for level in features], dim=2)
        return tuple(fused.reshape(level.shape) for fused, level in zip(levels, features, strict=True)), text

    def _separate(
        self, features: Features, text: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[Features, torch.Tensor]:
        """Each level with the text as it came; of the five texts that come out, one is made."""
        fused, texts = zip(*(self.b_attn(_positions(level), text, attention_mask) for level in features), strict=True)
        shrink = (self if self.shrinks_outside else self.b_attn).get_submodule("shrink_lang")
        return tuple(map(_as_map, fused, features)), shrink(torch.cat(texts, dim=2))

    def _image_reads(self, features: Features, text: torch.Tensor, attention_mask: torch.Tensor) -> Features:
        fused = []
        for level in features:  # P3 first: each level finds the text normed once more
            v, text = self.t2i_attn(_positions(level), text, attention_mask)
            fused.append(_as_map(v, level))
        return tuple(fused)


class ShrinkText(nn.Module):
    """The five levels' texts, side by side, to one: a linear layer and LayerNorm (GLIP: FeatureResizer)."""

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(LEVELS * text_dim, text_dim)
        self.layer_norm = nn.LayerNorm(text_dim, eps=1e-12)

    def forward(self, texts: torch.Tensor) -> torch.Tensor:
        """(B, T, 5*L) -> (B, T, L)."""
        return self.layer_norm(self.fc(texts))


def _positions(level: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, H*W, C)."""
    return level.flatten(2).transpose(1, 2)


def _as_map(positions: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """(B, H*W, C) -> (B, C, H, W), the shape of `level`."""
    return positions.transpose(1, 2).reshape(level.shape)
