"""A text that no picture changes (MHA-S), computed once a caption: the two graphs' modules in their other cut.

Where the image alone attends, each block's text follows from the caption. So the text's own layers of the tower run
with the text encoder, which gives the text of every block side by side, and the fusion head reads them.
"""

from __future__ import annotations

import torch
from torch import nn

from glip_export.model.fusion_head import FusionHead, with_prompt
from glip_export.model.selection import LevelPredictions
from glip_export.model.text_encoder import TextEncoder, attended, embedded_of, side_by_side
from glip_export.model.text_layer import BertEncoderLayer, PassThrough
from glip_export.model.vl_fuse import Features, VLFuse


class CaptionEncoder(nn.Module):
    """The text encoder and the tower's text layers, under the places that they have in the tower."""

    def __init__(self, encoder: TextEncoder, head: FusionHead) -> None:
        super().__init__()
        self.config = head.config
        self.encoder = encoder
        self.dyhead_tower = nn.ModuleDict(
            {str(i): layer for i, layer in enumerate(head.dyhead_tower) if _of_text(layer)}
        )
        self.tunable_linear = head.tunable_linear

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 (B, T), (B, T) -> (B, T, (n + 1)*L): what each of n blocks reads, and what the logits read."""
        texts = side_by_side(self.encoder(input_ids, attention_mask), self.config.text.bert.hidden_size)
        mask = attended(self.config, attention_mask)
        steps = [with_prompt(self.tunable_linear, texts[0])]
        for layer in self.dyhead_tower.values():
            steps.append(layer((), steps[-1], mask)[1])
        if not self.config.head.fused_dot_product:
            steps[-1] = with_prompt(self.tunable_linear, embedded_of(texts, attention_mask))
        return torch.cat(steps, -1)


class HeadAfterCaption(FusionHead):
    """The fusion head without the tower's text layers; its text_features are what CaptionEncoder gives."""

    def __init__(self, head: FusionHead) -> None:
        nn.Module.__init__(self)  # the parts are the head's own
        self.config = head.config
        for name, part in (*head.named_children(), *head.named_parameters(recurse=False)):
            setattr(self, name, part)
        self.dyhead_tower = nn.ModuleList(PassThrough() if _of_text(layer) else layer for layer in head.dyhead_tower)
        self.tunable_linear = None

    def predict(
        self, features: Features, text_features: torch.Tensor, attention_mask: torch.Tensor
    ) -> list[LevelPredictions]:
        """See FusionHead."""
        *texts, last = side_by_side(text_features, self.config.text.bert.hidden_size)
        mask = attended(self.config, attention_mask)
        features, reads = tuple(features), iter(texts)
        for layer in self.dyhead_tower:
            features, _ = layer(features, next(reads) if isinstance(layer, VLFuse) else last, mask)
        return self.predictions(features, last)


def _of_text(layer: nn.Module) -> bool:
    return isinstance(layer, BertEncoderLayer | PassThrough)
