"""Grounding DINO-T from transformers, of the published sizes with random weights: what one would pick instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from glip_rows import PRECISIONS, float32_products
from turns import Row, Stages
from work import Work

PUBLISHED = {  # IDEA-Research/grounding-dino-tiny, where it differs from transformers' defaults: nowhere but here
    "num_queries": 900, "max_text_len": 256, "d_model": 256, "encoder_layers": 6, "decoder_layers": 6,
    "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "num_feature_levels": 4,
}  # fmt: skip
SWIN_T = {
    "image_size": 224, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7,
    "out_indices": [2, 3, 4],
}  # fmt: skip
SMALL = {"num_queries": 20, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
SMALL_SWIN = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2]}
SMALL_BERT = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def build(device: str | torch.device, small: bool = False, seed: int = 0) -> Any:
    """GroundingDinoForObjectDetection without any download; small: for a rehearsal."""
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    torch.manual_seed(seed)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(**SWIN_T | (SMALL_SWIN if small else {})),
        text_config=BertConfig(**(SMALL_BERT if small else {})),
        **PUBLISHED | (SMALL if small else {}),
    )
    return GroundingDinoForObjectDetection(config).eval().to(device)


def rows(model: Any, work: Work, precisions: Sequence[str] = ("fp32", "TF32", "fp16 autocast")) -> list[Row]:
    """One of each precision; a single stage, for the model has no seams. Its boxes are of random weights: no result."""
    return [_row(model, work, precision) for precision in precisions]


def _row(model: Any, work: Work, precision: str) -> Row:
    products, cast = PRECISIONS[precision]
    device = work.images.device
    ids = torch.from_numpy(work.input_ids).repeat(work.batch, 1).to(device)
    inputs = {
        "pixel_values": work.images,
        "pixel_mask": torch.ones_like(work.images[:, 0], dtype=torch.int64),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }

    @contextmanager
    def mode() -> Iterator[None]:
        with float32_products(products), torch.no_grad():
            yield

    def whole() -> None:
        with torch.autocast(device.type, cast or torch.float16, enabled=cast is not None):
            found = model(**inputs)
        found.logits.sigmoid().amax(-1).cpu(), found.pred_boxes.cpu()

    def prepare() -> Stages:
        return [("whole", whole)]

    facts = {"precision": "fp16" if cast else "fp32", "tokens": work.tokens, "comparable": False}
    return Row(f"Grounding DINO-T, {precision}", prepare, mode, facts)
