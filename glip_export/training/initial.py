"""Weights to start from, where no pretrained ones can be had."""

from __future__ import annotations

import math

import torch
from torch import nn

from glip_export.config import GlipConfig
from glip_export.model.dyconv import DyConv
from glip_export.model.glip import Glip


def new_model(config: GlipConfig, prior: float, seed: int) -> Glip:
    """A GLIP to train from nothing. It stays in eval mode: BERT's dropout is its only part that would differ.

    `prior` is the score that every position and token starts from (GLIP: PRIOR_PROB), so that the many empty
    positions do not drown the first steps. Offsets start at zero (Zhu et al., 2019), and BERT's positions as sines
    (Vaswani et al., 2017), from which "the word before" is quickly learned.
    """
    torch.manual_seed(seed)
    model = Glip(config).eval()
    head = model.fusion_head
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                # Biases keep PyTorch's values: with zeros, padding would be zero in every layer up to the last, and
                # each LayerNorm would multiply its gradient by 300.
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in model.modules():
            if isinstance(module, DyConv):
                _zero(module.offset)
        for convolution in (head.bbox_pred, head.centerness):
            _zero(convolution)
            nn.init.normal_(convolution.weight, std=0.01)
        head.bias0.fill_(-math.log((1 - prior) / prior))
        embeddings = model.text_encoder.bert.embeddings
        nn.init.normal_(embeddings.word_embeddings.weight, std=0.5)
        nn.init.zeros_(embeddings.token_type_embeddings.weight)
        positions = embeddings.position_embeddings.weight
        positions.copy_(sines(*positions.shape) / 2)
    return model


def _zero(module: nn.Module) -> None:
    for value in module.parameters():
        nn.init.zeros_(value)


def sines(count: int, dim: int) -> torch.Tensor:
    """Sines and cosines of falling frequency, one row a position: (count, dim), dim even."""
    angle = torch.arange(count)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(1000.0) / dim))
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)
