"""Structures that go together: forms that must be equal are, whatever the original's own numbers cover."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from compact_oracle import OracleCase

from glip_export.config import GlipConfig, load_config
from glip_export.model.glip import Glip
from glip_export.model.selection import LevelPredictions

RELATIVE = 2e-4
TOKENS, PADDED = 9, 14
FUSE, SWINT, TEXT = "MODEL.DYHEAD.FUSE_CONFIG", "MODEL.SWINT", "MODEL.LANGUAGE_BACKBONE"
UNFUSED_LOGITS = (f"{FUSE}.USE_FUSED_FEATURES_DOT_PRODUCT", "False")
TWO_LAYERS = (f"{TEXT}.N_LAYERS", "2")
SPECIAL = (f"{TEXT}.MASK_SPECIAL", "True")
TUNED = (f"{FUSE}.ADD_LINEAR_LAYER", "True")
MHA_S, NO_FUSION = (f"{FUSE}.TYPE", "MHA-S"), (f"{FUSE}.EARLY_FUSE_ON", "False")
SEPARATE = (f"{FUSE}.SEPARATE_BIDIRECTIONAL", "True")
VL, POSITIONS = (f"{SWINT}.VERSION", "vl"), (f"{SWINT}.APE", "True")
COMBINATIONS = {
    "two layers in the logits alone": (*UNFUSED_LOGITS, *TWO_LAYERS),
    "two layers, neither fused nor in the logits": (*NO_FUSION, *UNFUSED_LOGITS, *TWO_LAYERS),
    "two layers, no fusion, fused logits": (*NO_FUSION, *TWO_LAYERS),
    "unknown fusion": (f"{FUSE}.TYPE", "NONE", *SPECIAL),
    "unknown fusion, unfused logits": (f"{FUSE}.TYPE", "NONE", *UNFUSED_LOGITS, *TUNED),
    "MHA-S, unfused logits": (*MHA_S, *UNFUSED_LOGITS),
    "MHA-S, all at once": (*MHA_S, *UNFUSED_LOGITS, *TWO_LAYERS, *TUNED, *SPECIAL),
    "MHA-S, one block": (*MHA_S, *UNFUSED_LOGITS, *TWO_LAYERS, *TUNED, "MODEL.DYHEAD.NUM_CONVS", "1"),
    "MHA-S, no clamps": (*MHA_S, f"{FUSE}.CLAMP_MIN_FOR_UNDERFLOW", "False", f"{FUSE}.CLAMP_MAX_FOR_OVERFLOW", "False"),
    "separate, special, stable": (
        f"{FUSE}.SEPARATE_BIDIRECTIONAL",
        "True",
        *SPECIAL,
        f"{FUSE}.STABLE_SOFTMAX_2D",
        "True",
    ),
    "separate, tuned, unfused logits": (*SEPARATE, *TUNED, *UNFUSED_LOGITS),
    "vl, MHA-S": (*VL, *MHA_S, *TUNED, *SPECIAL),
    "vl, unfused logits": (*VL, *UNFUSED_LOGITS, *TUNED),
    "vl, two layers, unfused logits": (*VL, *UNFUSED_LOGITS, *TWO_LAYERS),
    "vl, neither": (*VL, *NO_FUSION, *UNFUSED_LOGITS, *TWO_LAYERS),
    "vl, positions": (*VL, *POSITIONS, f"{SWINT}.OUT_NORM", "False"),
    "v2_vl, all of Swin's": (
        f"{SWINT}.VERSION",
        "v2_vl",
        f"{SWINT}.APE",
        "True",
        f"{SWINT}.LAYER_SCALE",
        "1",
        *SPECIAL,
    ),
    "v1, positions": (*POSITIONS, f"{SWINT}.LAYER_SCALE", "1"),
}


@pytest.fixture(scope="module", params=COMBINATIONS)
def model(request: pytest.FixtureRequest) -> Glip:
    case = OracleCase("mha_s")
    return random_model(load_config(case.config, COMBINATIONS[request.param], case.bert_config))


def random_model(config: GlipConfig) -> Glip:
    torch.manual_seed(0)
    model = Glip(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        spread = 0.3 if parameter.dim() > 1 and "embeddings" not in name else 0.1
        around = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
        fan_in = parameter[0].numel() ** 0.5 if parameter.dim() > 1 and "bias" not in name.rsplit(".", 1)[-1] else 1.0
        parameter.copy_(around + torch.randn_like(parameter) * spread / fan_in * (3 if parameter.dim() > 1 else 1))
    return model


def predictions(model: Glip, parts: tuple, tokens: int) -> list[LevelPredictions]:
    """Of two pictures with one caption of TOKENS, padded to `tokens`; parts: the two graphs' modules."""
    encoder, head = parts
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((2, 3, 96, 160), generator=generator)
    ids = torch.randint(1000, 2000, (2, TOKENS), generator=generator)
    ids = torch.nn.functional.pad(ids, (0, tokens - TOKENS))
    mask = (torch.arange(tokens) < TOKENS).long().expand(2, -1)
    features, text = model.encode_images(images, encoder(ids, mask), mask)
    return head.predict(features, text, mask)


def check_equal(ours: list[LevelPredictions], theirs: list[LevelPredictions]) -> None:
    for level, other in zip(ours, theirs, strict=True):
        for name, one, two in zip(level._fields, level, other, strict=True):
            one = one[..., :TOKENS] if name == "token_logits" else one
            assert one.isfinite().all()
            assert (one - two).abs().max() / two.square().mean().sqrt() < RELATIVE, name


def test_forms_are_equal(model: Glip) -> None:
    plain = predictions(model, (model.text_encoder, model.fusion_head), TOKENS)
    cut = model.graph_module("text_encoder"), model.graph_module("fusion_head")
    check_equal(predictions(model, cut, TOKENS), plain)
    model.fusion_head.fold()
    check_equal(predictions(model, cut, TOKENS), plain)
    check_equal(predictions(model, cut, PADDED), plain)
    model.fusion_head.fold(False)
    check_equal(predictions(model, (model.text_encoder, model.fusion_head), PADDED), plain)


def test_widths_are_the_configurations(model: Glip) -> None:
    ids = torch.full((1, 4), 1012)
    mask = torch.ones_like(ids)
    text = model.graph_module("text_encoder")(ids, mask)
    assert text.shape[2] == model.config.encoded_width
    _, text = model.encode_images(torch.zeros(1, 3, 64, 64), text, mask)
    assert text.shape[2] == model.config.head_width


def test_a_table_of_zeros_changes_nothing() -> None:
    case = OracleCase("mha_s")
    config = load_config(case.config, TUNED, case.bert_config)
    model = random_model(config)
    assert model.fusion_head.tunable_linear is not None
    tuned = predictions(model, (model.text_encoder, model.fusion_head), TOKENS)
    model.fusion_head.tunable_linear.weight.zero_()
    zero = predictions(model, (model.text_encoder, model.fusion_head), TOKENS)
    model.fusion_head.tunable_linear = None
    model.config = replace(config, head=replace(config.head, prompt_table=False))
    check_equal(zero, predictions(model, (model.text_encoder, model.fusion_head), TOKENS))
    with pytest.raises(AssertionError):
        check_equal(tuned, zero)
