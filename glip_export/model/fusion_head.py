"""The fusion head: the tower of VLFuse, BertEncoderLayer and DyConv, its predictions, and their selection."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from glip_export.config import GlipConfig
from glip_export.config.supported import PROMPT_TABLE_ROWS
from glip_export.model.bi_attention import LIMIT, BiMultiHeadAttention
from glip_export.model.dyconv import DyConv
from glip_export.model.image_attention import ImageAttention
from glip_export.model.selection import LevelPredictions, select
from glip_export.model.text_encoder import attended, embedded_of, side_by_side
from glip_export.model.text_layer import BertEncoderLayer, PassThrough
from glip_export.model.vl_fuse import Features, VLFuse


class FusionHead(nn.Module):
    """Pyramid and text to detections (GLIP's VLDyHead and ATSSPostProcessor)."""

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        head, text_dim = config.head, config.text.bert.hidden_size
        self.config = config
        self.dyhead_tower = nn.ModuleList(_tower(config))
        self.bbox_pred = nn.Conv2d(head.channels, 4, 1)
        self.centerness = nn.Conv2d(head.channels, 1, 1)
        self.scales = nn.ModuleList(Scale() for _ in config.detection.anchor_strides)
        self.dot_product_projection_text = nn.Linear(text_dim, head.channels)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias_lang = nn.Parameter(torch.zeros(text_dim))
        self.bias0 = nn.Parameter(torch.zeros(1))
        # Prompt tuning's table is stored as a linear layer that nothing is multiplied with.
        self.tunable_linear = nn.Linear(text_dim, PROMPT_TABLE_ROWS, bias=False) if head.prompt_table else None

    def forward(
        self,
        features: Features,
        text_features: torch.Tensor,
        attention_mask: torch.Tensor,
        class_map: torch.Tensor,
        image_sizes: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Detections of each picture.

        features: P3..P7, f32 (B, C, Hl, Wl); text_features f32 (B, T, L), what the text encoder gave, or the backbone
        where it fuses text; attention_mask int64 (B, T); class_map f32
        (B, T, K), a class's n tokens at 1/n (MEAN, POWER) or 1 (MAX); image_sizes int64 (B, 2), the unpadded resized
        pictures' h, w. Returns boxes f32 (B, D, 4) xyxy in resized pixels, scores f32 (B, D) falling, labels int64
        (B, D), columns of class_map, -1 where empty, count int64 (B,).
        """
        levels = self.predict(features, text_features, attention_mask)
        return select(levels, class_map, image_sizes, self.config.detection)

    def predict(
        self, features: Features, text_features: torch.Tensor, attention_mask: torch.Tensor
    ) -> list[LevelPredictions]:
        """Token logits, box deltas and centerness of each level."""
        texts = side_by_side(text_features, self.config.text.bert.hidden_size)
        mask = attended(self.config, attention_mask)
        features, text = tuple(features), with_prompt(self.tunable_linear, texts[0])
        for layer in self.dyhead_tower:
            features, text = layer(features, text, mask)
        if not self.config.head.fused_dot_product:
            text = with_prompt(self.tunable_linear, embedded_of(texts, attention_mask))
        return self.predictions(features, text)

    def predictions(self, features: Features, text: torch.Tensor) -> list[LevelPredictions]:
        """What the convolutions and the dot product with the text (B, T, L) say of the tower's features."""
        tokens, bias = self.project_text(text)
        return [
            LevelPredictions(
                self.token_logits(level, tokens, bias), scale(self.bbox_pred(level)), self.centerness(level)
            )
            for level, scale in zip(features, self.scales, strict=True)
        ]

    def project_text(self, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Text (B, T, L) -> token vectors (B, T, C) and their biases (B, 1, T)."""
        text = F.normalize(text, dim=-1)
        tokens = self.dot_product_projection_text(text / 2)  # the bias below takes the vector whole
        return tokens, (text @ self.bias_lang + self.bias0)[:, None]

    def token_logits(self, level: torch.Tensor, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """(B, C, Hl, Wl), (B, T, C), (B, 1, T) -> (B, Hl*Wl, T)."""
        logits = level.flatten(2).transpose(1, 2) @ tokens.transpose(1, 2) / self.log_scale.exp() + bias
        return logits.clamp(-LIMIT, LIMIT) if self.config.head.clamp_dot_product else logits

    def fold(self, folds: bool = True) -> None:
        """Chooses the folded or the plain form of every attention to the text; both give the same results."""
        for module in self.modules():
            if isinstance(module, BiMultiHeadAttention | ImageAttention):
                module.folds = folds


def with_prompt(table: nn.Linear | None, text: torch.Tensor) -> torch.Tensor:
    """The text (B, T, L) with the rows of prompt tuning's table, one a token's place, real or padded."""
    return text if table is None else text + table.weight[: text.shape[1]]


class Scale(nn.Module):
    """A learned factor for one level's box deltas."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x times the factor."""
        return x * self.scale


def _tower(config: GlipConfig) -> list[nn.Module]:
    """The blocks in the checkpoint's order: VLFuse, BertEncoderLayer, DyConv, or without early fusion DyConv alone."""
    head, bert = config.head, config.text.bert
    tower: list[nn.Module] = []
    for block in range(head.num_convs):
        if head.early_fusion:
            text_is_read_again = block < head.num_convs - 1 or head.fused_dot_product
            tower.append(VLFuse(head, bert.hidden_size))
            tower.append(BertEncoderLayer(head, bert) if text_is_read_again else PassThrough())
        tower.append(DyConv(head))
    return tower
