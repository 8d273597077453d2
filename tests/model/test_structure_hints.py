"""A checkpoint under another structure's configuration is refused with the words that make it fit, and they do."""

from __future__ import annotations

import re

import pytest
import torch
from compact_oracle import OracleCase, cases

from glip_export.checkpoint import Checkpoint
from glip_export.config import load_config
from glip_export.config.published import structure
from glip_export.errors import CheckpointError, ConfigError
from glip_export.model.glip import build_model

FUSE, SWINT = "MODEL.DYHEAD.FUSE_CONFIG", "MODEL.SWINT"
FUSED_LOGITS = f"{FUSE}.USE_FUSED_FEATURES_DOT_PRODUCT"
PUBLISHED = (
    *(f"{SWINT}.VERSION", "v1", f"{SWINT}.APE", "False", f"{SWINT}.LAYER_SCALE", "0", f"{SWINT}.OUT_NORM", "True"),
    *(f"{FUSE}.TYPE", "MHA-B", f"{FUSE}.EARLY_FUSE_ON", "True", f"{FUSE}.USE_LAYER_SCALE", "True"),
    *(f"{FUSE}.SEPARATE_BIDIRECTIONAL", "False", f"{FUSE}.DO_LANG_PROJ_OUTSIDE_CHECKPOINT", "False"),
    *(f"{FUSE}.ADD_LINEAR_LAYER", "False", FUSED_LOGITS, "True"),
)
WRONG = {
    "a misspelt fusion": ("tiny", (f"{FUSE}.TYPE", "MHA_B")),
    "BERT's text for the logits": ("tiny", (FUSED_LOGITS, "False")),
    "no fusion": ("tiny", (f"{FUSE}.EARLY_FUSE_ON", "False")),
    "no norms": ("swint_v2", (f"{SWINT}.OUT_NORM", "False")),
    "norms": ("swint_v2_ape", (f"{SWINT}.OUT_NORM", "True")),
    "v2": ("swint_v2_vl", (f"{SWINT}.VERSION", "v2")),
    "vl": ("swint_v2_vl", (f"{SWINT}.VERSION", "vl")),
    "no layer scale": ("swint_v2_vl", (f"{SWINT}.LAYER_SCALE", "0")),
}


def checkpoint_of(case: OracleCase) -> Checkpoint:
    """Keys in the order of a PyTorch model, parameters before what is below."""
    state = {key.removeprefix("module."): torch.from_numpy(array) for key, array in case.weights().items()}
    ordered = sorted(state, key=lambda key: (key.count("."), key))
    return Checkpoint(case.folder / "w.pth", "", {key: state[key] for key in ordered})


def check_hint(case: OracleCase, overrides: tuple[str, ...]) -> None:
    checkpoint = checkpoint_of(case)
    with pytest.raises(CheckpointError, match=r"[aA]dd MODEL\.") as caught:
        build_model(load_config(case.config, overrides, case.bert_config), checkpoint)
    message = str(caught.value)
    assert "\n" not in message
    words = re.split(r"[aA]dd (?=MODEL\.)", message)[1].split()
    build_model(load_config(case.config, (*overrides, *words), case.bert_config), checkpoint)


@pytest.mark.parametrize("name", [name for name in cases() if name not in ("glip_t", "tiny", "mask_special")])
def test_the_words_make_it_fit(name: str) -> None:
    check_hint(OracleCase(name), PUBLISHED)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_switch_drops_no_weights(wrong: str) -> None:
    name, overrides = WRONG[wrong]
    check_hint(OracleCase(name), overrides)


@pytest.mark.parametrize("name", [name for name in cases() if name != "glip_t"])
def test_the_keys_tell_the_structure(name: str) -> None:
    """Of a configuration that has it already, nothing is to be changed."""
    case = OracleCase(name)
    config = load_config(case.config, (), case.bert_config)
    checkpoint = checkpoint_of(case)
    words = [word for key, value in structure(checkpoint.shapes).items() for word in (key, str(value))]
    assert load_config(case.config, words, case.bert_config) == config


def test_what_the_logits_read_is_asked_for() -> None:
    """Without fusion no key tells it; with a backbone that fuses text no published model says it."""
    text = {"backbone.body.layers.3.blocks.0.norm1_text.weight": (48,)}
    published = {
        **{f"backbone.body.layers.{stage}.blocks.{block}.attn.relative_position_bias_table": (169, 3 * 2**stage)
           for stage, depth in enumerate((2, 2, 6, 2)) for block in range(depth)},
        **{f"rpn.head.dyhead_tower.{block}.offset.weight": (27, 256, 3, 3) for block in range(6)},
        "backbone.body.patch_embed.proj.weight": (96, 3, 4, 4),
        "backbone.fpn.fpn_inner2.weight": (256, 192, 1, 1),
    }  # fmt: skip
    assert load_config(shapes=published).name == "glip_A_Swin_T_O365"
    with pytest.raises(ConfigError, match=f"say {FUSED_LOGITS} True"):
        load_config(shapes={**published, **text})
    assert load_config(None, (FUSED_LOGITS, "True"), shapes={**published, **text}).head.fused_dot_product
