"""The vision backbone: Swin and a feature pyramid (Lin et al., CVPR 2017) with RetinaNet's P6 and P7."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from glip_export.config import GlipConfig
from glip_export.model.swin import Swin
from glip_export.model.text_encoder import attended, embedded_of, side_by_side


class VisionBackbone(nn.Module):
    """Pictures to the pyramid P3..P7 (strides 8..128); where Swin fuses text (vl, v2_vl), that comes out too."""

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        self.config = config
        self.swin = Swin(config.swin, config.text)
        self.fpn = Fpn([config.swin.embed_dim * 2**stage for stage in (1, 2, 3)], config.head.channels)

    def forward(
        self,
        images: torch.Tensor,
        text_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """(B, 3, H, W), H and W multiples of 32 -> P3..P7 as (B, C, H/s, W/s), rounded up.

        Where Swin fuses text, text_features (B, T, L) and attention_mask (B, T) are given too, and after P7 stands what
        the head reads of the text. Raises ValueError if they are missing then.
        """
        if not self.config.swin.fuses_text:
            return self.fpn(*self.swin(images))
        if text_features is None or attention_mask is None:
            raise ValueError("this backbone fuses text: it takes text_features and attention_mask too")
        texts = side_by_side(text_features, self.config.text.bert.hidden_size)
        *stages, text = self.swin(images, (texts[0], attended(self.config, attention_mask)))
        head = self.config.head
        if not head.fused_dot_product:  # the logits read BERT's own text, and the fusion, if any, Swin's
            embedded = embedded_of(texts, attention_mask)
            text = torch.cat((text, embedded), -1) if head.early_fusion else embedded
        return *self.fpn(*stages), text


class Fpn(nn.Module):
    """Top-down pyramid over C3..C5; convolutions with bias, no norm, no activation.

    Module names are the checkpoint's: inner2..4 and layer2..4 serve C3..C5.
    """

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        c3, c4, c5 = in_channels
        self.fpn_inner2 = nn.Conv2d(c3, channels, 1)
        self.fpn_inner3 = nn.Conv2d(c4, channels, 1)
        self.fpn_inner4 = nn.Conv2d(c5, channels, 1)
        self.fpn_layer2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.fpn_layer3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.fpn_layer4 = nn.Conv2d(channels, channels, 3, padding=1)
        self.top_blocks = TopBlocks(channels)

    def forward(self, c3: torch.Tensor, c4: torch.Tensor, c5: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """C3, C4, C5 -> P3..P7."""
        inner5 = self.fpn_inner4(c5)
        inner4 = self.fpn_inner3(c4) + F.interpolate(inner5, size=c4.shape[-2:], mode="nearest")
        inner3 = self.fpn_inner2(c3) + F.interpolate(inner4, size=c3.shape[-2:], mode="nearest")
        p5 = self.fpn_layer4(inner5)
        return (self.fpn_layer2(inner3), self.fpn_layer3(inner4), p5, *self.top_blocks(p5))


class TopBlocks(nn.Module):
    """P6 and P7 by strided convolutions on P5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, p5: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """P5 -> P6, P7."""
        p6 = self.p6(p5)
        return p6, self.p7(F.relu(p6))
