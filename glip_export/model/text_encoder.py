"""The text encoder: transformers' BERT, without its pooler."""

from __future__ import annotations

import torch
from torch import nn
from transformers import BertConfig as HuggingFaceBertConfig
from transformers import BertModel

from glip_export.config import GlipConfig


class TextEncoder(nn.Module):
    """Token ids to text features.

    A fusion head that fuses early, or takes its dot product with the fused text, reads BERT's last hidden states,
    padded tokens included. One that does neither (GLIP-T (A)) reads GLIP's `embedded`: the mean of the last N_LAYERS
    layers, divided by N_LAYERS again, times the mask.
    """

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        bert = config.text.bert
        self.n_layers = config.text.n_layers
        self.gives_hidden = config.head.early_fusion or config.head.fused_dot_product
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
        """int64 (B, T), int64 (B, T) with 1 on real tokens -> (B, T, L)."""
        dtype = self.bert.embeddings.word_embeddings.weight.dtype
        added_mask = padding_mask(attention_mask, dtype)  # given in full, BERT uses it as it is
        states = self.bert(input_ids=input_ids, attention_mask=added_mask, output_hidden_states=True).hidden_states
        if self.gives_hidden:
            return states[-1]  # (B, T, L)
        mean = torch.stack(states[-self.n_layers :]).mean(0) / self.n_layers
        return mean * attention_mask.unsqueeze(-1).to(mean.dtype)


def padding_mask(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to attention scores: 0 on real tokens, the dtype's lowest value on padding, (B, 1, 1, T)."""
    return (1 - attention_mask[:, None, None, :]).to(dtype) * torch.finfo(dtype).min
