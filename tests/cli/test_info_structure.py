"""glip-export info: how a model is built, where no published one is built so."""

from __future__ import annotations

from pathlib import Path

import pytest
from compact_oracle import OracleCase, cases
from random_checkpoint import PUBLISHED, config_of

from glip_export.cli.info import _structure, run
from glip_export.config import load_config

WORDS = {
    "glip_t": "",
    "tiny": "",
    "tiny_unfused": "",
    "mask_special": "[CLS] and [SEP] masked",
    "mha_s": "MHA-S",
    "mha_s_noscale": "MHA-S without layer scale",
    "prompt_tuned": "prompt-tuned",
    "prompt_tuned_nofuse": "prompt-tuned",
    "separate": "each level fused apart",
    "separate_outside": "each level fused apart",
    "swint_v2": "Swin v2, Swin with layer scale",
    "swint_v2_ape": "Swin v2, Swin without output norms, Swin with position embedding",
    "swint_v2_vl": "Swin v2_vl, Swin with layer scale",
    "swint_vl": "Swin vl",
    "swint_vl_nofuse": "Swin vl, logits from Swin's text",
}


@pytest.mark.parametrize("name", cases())
def test_the_words_of_each_structure(name: str) -> None:
    case = OracleCase(name)
    assert _structure(load_config(case.config, (), case.bert_config)) == WORDS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_none_for_the_published_ones(name: str) -> None:
    assert _structure(PUBLISHED[name]) == ""


def test_words_are_joined() -> None:
    fuse = "MODEL.DYHEAD.FUSE_CONFIG."
    overrides = [f"{fuse}TYPE", "MHA-S", f"{fuse}USE_LAYER_SCALE", "True", f"{fuse}ADD_LINEAR_LAYER", "True"]
    overrides += [f"{fuse}USE_FUSED_FEATURES_DOT_PRODUCT", "False"]
    both = config_of("glip_Swin_T_O365_GoldG", ["MODEL.SWINT.VERSION", "vl", *overrides])
    assert _structure(both) == "Swin vl, MHA-S, logits from BERT's text, prompt-tuned"
    other = config_of("glip_Swin_T_O365_GoldG", [f"{fuse}TYPE", "OTHER"])
    assert _structure(other) == "'OTHER', which fuses nothing"


def test_the_published_structure_has_no_row(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny_bundle, None)
    assert "structure" not in capsys.readouterr().out
