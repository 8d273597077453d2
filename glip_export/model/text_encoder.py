"""The text encoder: transformers' BERT, without its pooler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig as HuggingFaceBertConfig
from transformers import BertModel

from glip_export.config import GlipConfig


class TextEncoder(nn.Module):
    """Token ids to text features.

    A model that fuses, or takes its dot product with the fused text, reads BERT's last hidden states, padded tokens
    included. One that does neither (GLIP-T (A)) reads GLIP's `embedded`: the mean of the last N_LAYERS layers, divided
    by N_LAYERS again, times the mask. With N_LAYERS above 1 some read both, which then stand side by side.
    """

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        bert = config.text.bert
        self.n_layers = config.text.n_layers
        self.gives_hidden = config.head.early_fusion or config.head.fused_dot_product or config.swin.fuses_text
        self.gives_both = config.reads_embedded_apart
        self.bert = BertModel(
            HuggingFaceBertConfig(
                vocab_size=bert.vocab_size,
                hidden_size=bert.hidden_size,
                num_hidden_layers=bert.num_hidden_layers,
                num_attention_heads=bert.num_attention_heads,
                intermediate_size=bert.intermediate_size,
                max_position_embeddings=bert.max_position_embeddings,
                type_vocab_size=bert.type_vocab_size,
                layer_norm_eps=bert.layer_norm_eps,
                attn_implementation="eager",
            ),
            add_pooling_layer=False,
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 (B, T), int64 (B, T) with 1 on real tokens -> (B, T, L), or (B, T, 2*L): the last layer, `embedded`."""
        dtype = self.bert.embeddings.word_embeddings.weight.dtype
        added_mask = padding_mask(attention_mask, dtype)  # given in full, BERT uses it as it is
        states = self.bert(input_ids=input_ids, attention_mask=added_mask, output_hidden_states=True).hidden_states
        if self.gives_hidden and not self.gives_both:
            return states[-1]  # (B, T, L)
        mean = torch.stack(states[-self.n_layers :]).mean(0) / self.n_layers
        embedded = mean * attention_mask.unsqueeze(-1).to(mean.dtype)
        return torch.cat((states[-1], embedded), -1) if self.gives_both else embedded


def embedded_of(texts: Sequence[torch.Tensor], attention_mask: torch.Tensor) -> torch.Tensor:
    """GLIP's `embedded` (B, T, L) among the text features that stand side by side: the second, or the one masked."""
    if len(texts) > 1:
        return texts[1]
    return texts[0] * attention_mask.unsqueeze(-1).to(texts[0].dtype)


def side_by_side(text_features: torch.Tensor, width: int) -> tuple[torch.Tensor, ...]:
    """(B, T, n*L) -> n of (B, T, L), L the width."""
    return text_features.split(width, -1) if text_features.shape[2] > width else (text_features,)


def attended(config: GlipConfig, attention_mask: torch.Tensor) -> torch.Tensor:
    """What is attended to after BERT: every real token, or with MASK_SPECIAL neither [CLS] nor [SEP]; int64 (B, T).

    These are the first and the last real token. A mask without [CLS] is taken as it is.
    """
    if not config.text.mask_special:
        return attention_mask
    # A token's place is inside if it is not the first and the next one is real too.
    inside = F.pad(attention_mask[:, 2:], (1, 1))[:, : attention_mask.shape[1]]
    return torch.where(attention_mask[:, :1] == 1, inside, attention_mask)


def padding_mask(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to attention scores: 0 on real tokens, the dtype's lowest value on padding, (B, 1, 1, T)."""
    return (1 - attention_mask[:, None, None, :]).to(dtype) * torch.finfo(dtype).min
