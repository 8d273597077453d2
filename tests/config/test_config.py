"""Official YAML, overrides, published models and the manifest's form of the configuration."""

from __future__ import annotations

import ast
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from glip_export.config import (
    BertConfig,
    GlipConfig,
    MultiscaleConfig,
    SizeRange,
    config_from_dict,
    config_to_dict,
    load_config,
    read_bert_config,
)
from glip_export.config.published import CONFIGURATIONS, PUBLISHED, identify
from glip_export.config.supported import NUMBERS, RELATIONS, RULES
from glip_export.config.yacs import literal, official_keys
from glip_export.errors import ConfigError

ORACLE = Path(__file__).parents[1] / "data" / "oracle"
TINY, TINY_BERT = ORACLE / "full_dump" / "config.yaml", ORACLE / "full_dump" / "bert_config.json"

# The inference part of the official glip_Swin_T_O365_GoldG.yaml, in its own notation.
OFFICIAL_C = """
MODEL:
  META_ARCHITECTURE: "GeneralizedVLRCNN"
  WEIGHT: "swin_tiny_patch4_window7_224.pth"
  RPN_ONLY: True
  RPN_ARCHITECTURE: "VLDYHEAD"
  BACKBONE: {CONV_BODY: "SWINT-FPN-RETINANET", OUT_CHANNELS: 256, FREEZE_CONV_BODY_AT: -1}
  LANGUAGE_BACKBONE: {MODEL_TYPE: "bert-base-uncased", MASK_SPECIAL: False}
  RPN:
    USE_FPN: True
    ANCHOR_SIZES: (64, 128, 256, 512, 1024)
    ANCHOR_STRIDE: (8, 16, 32, 64, 128)
    ASPECT_RATIOS: (1.0,)
    SCALES_PER_OCTAVE: 1
  DYHEAD:
    CHANNELS: 256
    NUM_CONVS: 6
    USE_GN: True
    USE_DYRELU: True
    USE_DFCONV: True
    USE_DYFUSE: True
    SCORE_AGG: "MEAN"
    FUSE_CONFIG:
      EARLY_FUSE_ON: True
      TYPE: "MHA-B"
      USE_DOT_PRODUCT_TOKEN_LOSS: True
      USE_FUSED_FEATURES_DOT_PRODUCT: True
      CLAMP_MIN_FOR_UNDERFLOW: True
      CLAMP_MAX_FOR_OVERFLOW: True
      CLAMP_BERTATTN_MIN_FOR_UNDERFLOW: True
      CLAMP_BERTATTN_MAX_FOR_OVERFLOW: True
      CLAMP_DOT_PRODUCT: True
TEST: {IMS_PER_BATCH: 64}
DATASETS: {TRAIN: ("object365_dt_train", "flickr30k_train", ), SEPARATION_TOKENS: ". "}
INPUT: {PIXEL_MEAN: [103.530, 116.280, 123.675], PIXEL_STD: [57.375, 57.120, 58.395]}
DATALOADER: {SIZE_DIVISIBILITY: 32}
SOLVER: {STEPS: (0.67, 0.89)}
""".replace('("object365_dt_train", "flickr30k_train", )', '\'("object365_dt_train", "flickr30k_train", )\'').replace(
    "{STEPS: (0.67, 0.89)}", '{STEPS: "(0.67, 0.89)"}'
)


@pytest.fixture(scope="module")
def glip_t_shapes() -> dict[str, tuple[int, ...]]:
    lines = (ORACLE / "glip_t_checkpoint_keys.txt").read_text().splitlines()
    shapes = {}
    for line in lines:
        key, rest = line.split(" ", 1)
        shapes[key.removeprefix("module.")] = ast.literal_eval(rest.rsplit(" ", 1)[0])
    assert len(shapes) == 746
    return shapes


def load_yaml(tmp_path: Path, text: str, *overrides: str) -> GlipConfig:
    path = tmp_path / "glip_Swin_T_O365_GoldG.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def load_tiny(*overrides: str) -> GlipConfig:
    return load_config(TINY, overrides, TINY_BERT)


def test_full_dump_of_the_tiny_model() -> None:
    config = load_tiny()
    assert config.name == "config"
    assert config.swin.embed_dim == 24
    assert config.swin.depths == (2, 2, 2, 2)
    assert config.swin.num_heads == (2, 2, 4, 8)
    assert config.head.channels == 64
    assert config.head.num_convs == 2
    assert config.head.early_fusion and config.head.fused_dot_product and not config.head.stable_softmax
    assert config.detection.pre_nms_top_n == 300
    assert (config.image.min_size, config.image.max_size) == (240, 310)
    assert config.text.max_query_len == 64
    assert config.text.bert == BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )


def test_official_yaml_is_the_published_configuration(
    tmp_path: Path, glip_t_shapes: dict[str, tuple[int, ...]]
) -> None:
    from_yaml = load_yaml(tmp_path, OFFICIAL_C)
    published = load_config(shapes=glip_t_shapes)
    assert published == GlipConfig()
    assert from_yaml == published


def test_defaults_are_the_originals_where_the_yaml_is_silent(tmp_path: Path) -> None:
    text = OFFICIAL_C.replace(
        "INPUT: {PIXEL_MEAN: [103.530, 116.280, 123.675], PIXEL_STD: [57.375, 57.120, 58.395]}", ""
    )
    text = text.replace("      CLAMP_DOT_PRODUCT: True\n", "").replace(', SEPARATION_TOKENS: ". "', "")
    config = load_yaml(tmp_path, text)
    assert config.image.mean == (102.9801, 115.9465, 122.7717)
    assert config.image.std == (1.0, 1.0, 1.0)
    assert config.head.clamp_dot_product is False
    assert config.text.separator == " "


@pytest.mark.parametrize(
    "text",
    ["MODEL:\n  DYHEAD:\n    NUM_CLASSES: 21\nDATALOADER:\n  SIZE_DIVISIBILITY: 32\n", "INPUT: {MIN_SIZE_TEST: 800}\n"],
)
def test_a_task_configuration_is_not_a_model(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="describes a task or data set"):
        load_yaml(tmp_path, text)


def test_keys_that_the_original_does_not_read_change_nothing(tmp_path: Path) -> None:
    plain = load_yaml(tmp_path, OFFICIAL_C)
    for override in (
        ("MODEL.GROUP_NORM.EPSILON", "0.01"),
        ("MODEL.FPN.RETURN_SWINT_FEATURE_BEFORE_FUSION", "True"),
        ("MODEL.LANGUAGE_BACKBONE.PAD_MAX", "False"),
        ("MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS", "True"),
        ("SOLVER.BASE_LR", "1"),
        ("OUTPUT_DIR", "somewhere"),
        ("DATASETS.PREDEFINED_TEXT", "a.json"),
    ):
        assert load_yaml(tmp_path, OFFICIAL_C, *override) == plain


def test_unknown_keys_in_a_yaml_are_accepted(tmp_path: Path) -> None:
    text = OFFICIAL_C + "MY_FORK: {A: 1}\nGLIPKNOW: {KNOWLEDGE_FILE: [1, 2]}\n7: x\nDATASETS:\n"
    with pytest.raises(ConfigError, match="SEPARATION_TOKENS"):
        load_yaml(tmp_path, text, "DATASETS.SEPARATION_TOKENS", "''")
    assert load_yaml(tmp_path, text, "DATASETS.SEPARATION_TOKENS", ". ") == load_yaml(tmp_path, OFFICIAL_C)


# --- overrides


def test_overrides() -> None:
    config = load_tiny(
        *("MODEL.DYHEAD.SCORE_AGG", "POWER", "TEST.CHUNKED_EVALUATION", "40"),
        *("MODEL.ATSS.INFERENCE_TH", "0", "MODEL.ATSS.NMS_TH", "0.5", "INPUT.MIN_SIZE_TEST", "480"),
        *("MODEL.RPN.ANCHOR_SIZES", "[32, 64, 128, 256, 512.5]", "INPUT.PIXEL_STD", "(1, 2, 3.5)"),
        *("MODEL.DYHEAD.FUSE_CONFIG.STABLE_SOFTMAX_2D", "True", "MODEL.ATSS.DETECTIONS_PER_IMG", "300"),
    )
    assert config.detection.score_agg == "POWER"
    assert config.detection.chunk == 40
    assert config.detection.score_threshold == 0
    assert config.detection.nms_threshold == 0.5
    assert config.detection.detections_per_image == 300
    assert config.detection.anchor_sizes == (32, 64, 128, 256, 512.5)
    assert config.image.min_size == 480
    assert config.image.std == (1, 2, 3.5)
    assert config.head.stable_softmax


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("TEST.CHUNKED_EVALUATION",), "TEST.CHUNKED_EVALUATION has no value"),
        (("MODEL.DYHEAD.SCORE_AG", "MEAN"), "did you mean MODEL.DYHEAD.SCORE_AGG"),
        (("SCORE_AGG", "MEAN"), "did you mean MODEL.DYHEAD.SCORE_AGG"),
        (("MODEL.DYHEAD.SCORE_AGG=MAX", "X"), r"MODEL.DYHEAD.SCORE_AGG.*KEY VALUE, without ="),
        (("MODEL", "1"), "MODEL is not a key"),
        (("qqq", "1"), "qqq is not a key of the official configuration$"),
        (("MODEL.DYHEAD.SCORE_AGG", "MEEN"), r"MODEL.DYHEAD.SCORE_AGG MEEN \(override\) is not supported: .*MAX"),
        (("MODEL.DYHEAD.SCORE_AGG", "ONEHOT"), "SCORE_AGG ONEHOT"),
        (("MODEL.DYHEAD.NUM_CONVS", "six"), r"MODEL.DYHEAD.NUM_CONVS six \(override\): expected a whole number"),
        (("MODEL.DYHEAD.NUM_CONVS", "2.0"), "expected a whole number"),
        (("MODEL.DYHEAD.NUM_CONVS", "True"), "expected a whole number"),
        (("MODEL.RPN_ONLY", "true"), "MODEL.RPN_ONLY true .*: expected True or False"),
        (("MODEL.RPN_ONLY", "1"), "expected True or False"),
        (("MODEL.SWINT.DEPTHS", "2"), "expected a list"),
        (("SOLVER.BASE_LR", "fast"), "SOLVER.BASE_LR fast .*: expected a number"),
        (("MODEL.ATSS.NMS_TH", "None"), "expected a number"),
        (("MODEL.ATSS.NMS_TH", "1e999"), "NMS_TH inf"),
        (("MODEL.DYHEAD.SCORE_AGG", "(" * 5000), "SCORE_AGG"),
    ],
)
def test_wrong_overrides(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_tiny(*overrides)
    assert "\n" not in str(caught.value)


# --- what is refused


SEVERAL_SCALES = ("TEST.USE_MULTISCALE", "True")
WRONG_VALUES = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.RPN_ARCHITECTURE": "ATSS",
    "MODEL.BACKBONE.CONV_BODY": "R-50-FPN-RETINANET",
    "MODEL.BACKBONE.OUT_FEATURES": "('stage3', 'stage4', 'stage5')",
    "MODEL.BACKBONE.FPN_LAYER": "(1,)",
    "MODEL.SWINT.VERSION": "v3",
    "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": "clip",
    "MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE": "clip",
    "MODEL.DYHEAD.CONV_FUNC": "Conv3x3Norm",
    "MODEL.DYHEAD.SCORE_AGG": "mean",
    "MODEL.DYHEAD.GROUPS": "2",
    "MODEL.DYHEAD.COSINE_SCALE": "20.0",
    "MODEL.GROUP_NORM.DIM_PER_GP": "8",
    "MODEL.RPN.ASPECT_RATIOS": "(0.5, 1.0, 2.0)",
    "MODEL.RPN.SCALES_PER_OCTAVE": "3",
    "MODEL.RPN.ANCHOR_SHIFT": "(0.0, 0.5, 0.0, 0.0)",
    "INPUT.FORMAT": "rgb",
    "TEST.EVAL_TASK": "grounding",
    "TEST.SUBSET": "10",
    "DATASETS.GENERAL_COPY_TEST": "4",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
def test_every_rule_refuses_by_name(rule) -> None:  # type: ignore[no-untyped-def]
    wrong = WRONG_VALUES.get(rule.key) or str(not rule.accepted[0])
    with pytest.raises(ConfigError) as caught:
        load_tiny(rule.key, wrong)
    message = str(caught.value)
    assert message.startswith(f"{rule.key} ")
    assert f"is not supported: {rule.why}" in message
    assert "\n" not in message and message.isascii()


@pytest.mark.parametrize("kind", ["SCAN", "FILM"])
def test_other_fusions_matter_only_with_early_fusion(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"FUSE_CONFIG.TYPE {kind}"):
        load_yaml(tmp_path, OFFICIAL_C, "MODEL.DYHEAD.FUSE_CONFIG.TYPE", kind)
    off = ("MODEL.DYHEAD.FUSE_CONFIG.EARLY_FUSE_ON", "False", "MODEL.DYHEAD.FUSE_CONFIG.JOINT_EMB_SIZE", "128")
    config = load_yaml(tmp_path, OFFICIAL_C, "MODEL.DYHEAD.FUSE_CONFIG.TYPE", kind, *off)
    assert config.head.early_fusion is False


@pytest.mark.parametrize("kind", ["MHA-B", "MHA-S", "", "NONE", "mha-b"])
def test_any_other_word_names_a_fusion(tmp_path: Path, kind: str) -> None:
    config = load_yaml(tmp_path, OFFICIAL_C, "MODEL.DYHEAD.FUSE_CONFIG.TYPE", kind or "''")
    assert config.head.fusion == kind


def test_prompt_tuning_is_told_in_two_ways(tmp_path: Path) -> None:
    plain = load_yaml(tmp_path, OFFICIAL_C)
    tuned = load_yaml(tmp_path, OFFICIAL_C, "MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER", "True")
    assert (plain.head.prompt_table, tuned.head.prompt_table) == (False, True)
    for version in range(1, 5):
        given = load_yaml(tmp_path, OFFICIAL_C, "SOLVER.TUNING_HIGHLEVEL_OVERRIDE", f"language_prompt_v{version}")
        assert given == (tuned if version in (2, 4) else plain)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.key)
def test_every_number_is_bounded(number) -> None:  # type: ignore[no-untyped-def]
    low = number.low if number.above else number.low - 1
    bad = [float("inf")] if low == float("-inf") else [low, -7]
    for item in bad:
        value = str((int(item) if number.whole else item,) * number.count if number.count else item)
        with pytest.raises(ConfigError, match=f"^{number.key} "):
            load_tiny(number.key, value.replace("inf", "1e999"))
    if number.count:
        with pytest.raises(ConfigError, match=f"{number.key} .*expected {number.count} "):
            load_tiny(number.key, "(8, 8)")
        with pytest.raises(ConfigError, match=f"^{number.key} "):
            load_tiny(number.key, str(("x",) * number.count))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.SWINT.NUM_HEADS", "(2, 2, 4, 7)"), "heads must divide"),
        (("MODEL.SWINT.EMBED_DIM", "32"), "OUT_CHANNELS must be EMBED_DIM"),
        (("MODEL.DYHEAD.CHANNELS", "128"), "MODEL.BACKBONE.OUT_CHANNELS 64"),
        (("MODEL.DYHEAD.FUSE_CONFIG.JOINT_EMB_SIZE", "32"), "JOINT_EMB_SIZE 32"),
        (("MODEL.GROUP_NORM.NUM_GROUPS", "24"), "groups must divide"),
        (("MODEL.LANGUAGE_BACKBONE.LANG_DIM", "768"), "LANG_DIM 768 .*hidden_size"),
        (("MODEL.LANGUAGE_BACKBONE.N_LAYERS", "3"), "num_hidden_layers"),
        (("MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN", "513"), "max_position_embeddings"),
        (
            ("MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER", "True", "MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN", "1001"),
            "1000 rows",
        ),
        (("DATALOADER.SIZE_DIVISIBILITY", "0"), "multiple of 32"),
        (("DATALOADER.SIZE_DIVISIBILITY", "48"), "multiple of 32"),
        (("TEST.CHUNKED_EVALUATION", "0"), "-1 for as many as fit"),
        (("TEST.SCALES", "()", *SEVERAL_SCALES), "1 to 64 scales"),
        (("TEST.SCALES", str((800,) * 65), *SEVERAL_SCALES), "1 to 64 scales"),
        (("TEST.SCALES", "(800, 900.5)", *SEVERAL_SCALES), "whole numbers of pixels"),
        (("TEST.MAX_SIZE", "10001", *SEVERAL_SCALES), "from 1 to 10000"),
        (("TEST.RANGES", str((96,) * 12), *SEVERAL_SCALES), "a range is two numbers"),
        (("TEST.RANGES", str(((-1, 96),) * 12), *SEVERAL_SCALES), "a range is two numbers"),
        (("TEST.RANGES", str(((0, 10**400),) * 12), *SEVERAL_SCALES), "a range is two numbers"),
        (("TEST.TH", "1e999", *SEVERAL_SCALES), "finite"),
        (("TEST.SELECT_CLASSES", "(0, 1)", *SEVERAL_SCALES), "numbers of names, from 1"),
        (("DATASETS.SEPARATION_TOKENS", "''"), "SEPARATION_TOKENS ''"),
    ],
)
def test_every_relation_is_checked(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_tiny(*overrides)
    assert overrides[0] in str(caught.value)


def test_every_key_of_the_tables_has_an_official_default() -> None:
    keys = official_keys()
    assert len(keys) == 458
    named = {rule.key for rule in RULES} | {number.key for number in NUMBERS}
    named |= {key for relation in RELATIONS for key in relation.keys} | {rule.only_if for rule in RULES} - {""}
    assert not {key for key in named if not keys[key].used}
    for values in CONFIGURATIONS.values():
        assert not {key for key in values if not keys[key].used}


def test_size_divisor_and_rgb_are_carried() -> None:
    config = load_tiny("DATALOADER.SIZE_DIVISIBILITY", "64", "INPUT.TO_BGR255", "False")
    assert config.image.size_divisor == 64
    assert config.image.bgr255 is False
    assert load_tiny("INPUT.TO_BGR255", "False", "INPUT.FORMAT", "bgr255").image.bgr255 is True


# --- files that are no configuration


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"- 1\n- 2\n", "holds a list, not sections"),
        (b"just words", "holds a str, not sections"),
        (b"MODEL: {A: [1, 2\nB: 3", r"not valid YAML: .*, line 2"),
        (b"MODEL: !!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"a: 2020-13-45", "not valid YAML"),
        (b"a: \x00", "not valid YAML"),
        (b"[" * 3000, "not valid YAML"),
        (b"\xff\xd8\xff\xe0\x80", "not a text file"),
        (b"MODEL: 5\n", "MODEL is a section of keys, but holds 5"),
        (b"MODEL:\n  DYHEAD: [1]\n", "MODEL.DYHEAD is a section of keys"),
        (b"MODEL: {META_ARCHITECTURE: 3}\n", r"MODEL.META_ARCHITECTURE 3 \(broken.yaml\): expected a name"),
        (b"#" * (1 << 20) + b"\n", "larger than 1 MB"),
    ],
)
def test_wrong_yaml(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "broken.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_anchors_that_multiply_or_recurse(tmp_path: Path) -> None:
    bomb = "a: &a0 {x: 1}\n" + "".join(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
    assert load_yaml(tmp_path, OFFICIAL_C + bomb + "MY: &my {MY: *my}\n").head.num_convs == 6


def test_missing_yaml_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: .*No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="null byte"):
        load_config(Path("a\0b"))


def test_no_pyyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r"pip install 'glip-export\[export\]'"):
        load_tiny()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(2, 2)", (2, 2)),
        ("[1]", (1,)),
        ("1e-5", 1e-5),
        ("MHA-B", "MHA-B"),
        (". ", ". "),
        ("None", None),
        ("a\0", "a\0"),
    ],
)
def test_literal(text: str, value: object) -> None:
    assert literal(text) == value


# --- published models


def shapes_of(name: str, glip_t: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes that tell a published model, made from GLIP-T (C)'s."""
    if name == "glip_A_Swin_T_O365":
        fuses = re.compile(r"rpn\.head\.dyhead_tower\.\d+\.(b_attn|attention|intermediate|output)\.")
        return {key: shape for key, shape in glip_t.items() if not fuses.match(key)}
    if name != "glip_Swin_L":
        return glip_t
    shapes = {
        "backbone.body.patch_embed.proj.weight": (192, 3, 4, 4),
        "backbone.fpn.fpn_inner2.weight": (256, 384, 1, 1),
    }
    for stage, (depth, heads) in enumerate(zip((2, 2, 18, 2), (6, 12, 24, 48), strict=True)):
        for block in range(depth):
            key = f"backbone.body.layers.{stage}.blocks.{block}.attn.relative_position_bias_table"
            shapes[key] = (23 * 23, heads)
    for block in range(8):
        shapes[f"rpn.head.dyhead_tower.{3 * block}.b_attn.gamma_v"] = (256,)
        shapes[f"rpn.head.dyhead_tower.{3 * block + 1}.attention.self.query.bias"] = (768,)
        shapes[f"rpn.head.dyhead_tower.{3 * block + 2}.offset.weight"] = (27, 256, 3, 3)
    return shapes


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_shapes_identify_published_models(name: str, glip_t_shapes: dict[str, tuple[int, ...]]) -> None:
    shapes = shapes_of(name, glip_t_shapes)
    assert identify(shapes, f"{name}.pth") == name
    config = load_config(shapes=shapes, weights_name=f"{name}.pth")
    assert config.name == name
    large, fusion = name == "glip_Swin_L", name != "glip_A_Swin_T_O365"
    assert config.swin.embed_dim == (192 if large else 96)
    assert config.swin.depths == ((2, 2, 18, 2) if large else (2, 2, 6, 2))
    assert config.swin.num_heads == ((6, 12, 24, 48) if large else (3, 6, 12, 24))
    assert config.swin.window_size == (12 if large else 7)
    assert config.head.num_convs == (8 if large else 6)
    assert config.head.early_fusion is config.head.fused_dot_product is fusion


def test_b_and_c_are_told_apart_by_the_files_name(glip_t_shapes: dict[str, tuple[int, ...]]) -> None:
    assert identify(glip_t_shapes) == "glip_Swin_T_O365_GoldG"
    assert identify(glip_t_shapes, "weights.pth") == "glip_Swin_T_O365_GoldG"
    for model in PUBLISHED[1:4]:
        assert identify(glip_t_shapes, model.file) == model.config
    assert PUBLISHED[1].address == "hf://GLIPModel/GLIP/glip_tiny_model_o365.pth"


def test_published_configuration_takes_overrides(glip_t_shapes: dict[str, tuple[int, ...]]) -> None:
    config = load_config(shapes=glip_t_shapes, overrides=["MODEL.DYHEAD.SCORE_AGG", "MAX"])
    assert config == replace(GlipConfig(), detection=replace(GlipConfig().detection, score_agg="MAX"))
    with pytest.raises(ConfigError, match=r"published glip_Swin_T_O365_GoldG"):
        load_config(shapes=glip_t_shapes, overrides=["MODEL.SWINT.EMBED_DIM", "48"])


def test_other_shapes_ask_for_a_configuration(glip_t_shapes: dict[str, tuple[int, ...]]) -> None:
    wider = {**glip_t_shapes, "backbone.body.patch_embed.proj.weight": (128, 3, 4, 4)}
    with pytest.raises(ConfigError, match=r"Swin of 128 channels, 2/2/6/2 blocks, window 7.*--config"):
        load_config(shapes=wider)
    for shapes in ({}, {"conv1.weight": (64, 3, 7, 7)}, {"backbone.body.patch_embed.proj.weight": ()}):
        with pytest.raises(ConfigError, match=r"neither GLIP's backbone nor its head.*--config"):
            load_config(shapes=shapes)
    with pytest.raises(ConfigError, match="--config"):
        load_config()


# --- BERT's sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a BERT configuration in JSON"),
        ("[1]", "no BERT configuration"),
        ('{"caption": "a. b"}', "no BERT configuration"),
        ('{"hidden_size": "768"}', "hidden_size 768: expected int"),
        ('{"hidden_size": true}', "hidden_size True: expected int"),
        ('{"hidden_size": 64.0}', "hidden_size 64.0: expected int"),
        ('{"hidden_size": 0}', "hidden_size 0 is not supported"),
        ('{"layer_norm_eps": NaN, "hidden_size": 64}', "layer_norm_eps nan"),
        ('{"hidden_size": 64}', "num_attention_heads 12 must divide 64"),
        ('{"hidden_size": 768, "hidden_act": "relu"}', "hidden_act relu is not supported: only gelu"),
        ('{"hidden_size": 768, "model_type": "roberta"}', "model_type roberta"),
        ('{"hidden_size": 768, "position_embedding_type": "relative_key"}', "position_embedding_type"),
        ('{"vocab_size": 1000}', "vocab_size 1000"),
    ],
)
def test_wrong_bert_configurations(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bert.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_bert_config(path)
    assert "bert.json" in str(caught.value)


def test_missing_bert_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(TINY, bert_config=tmp_path / "none.json")
    with pytest.raises(ConfigError, match="not a text file, so not a BERT configuration"):
        load_config(TINY, bert_config=ORACLE / "small" / "ml_nms.npz")
    with pytest.raises(ConfigError, match="LANG_DIM 64"):  # the tiny model without its BERT
        load_config(TINY)


# --- the manifest's form


def test_round_trip_through_json() -> None:
    for config in (load_tiny(), GlipConfig(), load_tiny("MODEL.RPN.ANCHOR_SIZES", "(1.5, 2, 3, 4, 5)")):
        assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
        assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("head", "extra"), 1, "unknown field head.extra"),
        (("extra",), 1, "unknown field extra"),
        (("text", "bert", "hidden_size"), None, "text.bert.hidden_size None: expected int"),
        (("text", "bert"), 5, "text.bert is not a mapping"),
        (("swin", "depths"), [2, 2, 6], "swin.depths"),
        (("swin", "depths"), [2, 2, 6, 2.5], "swin.depths"),
        (("detection", "anchor_sizes"), [], "detection.anchor_sizes"),
        (("detection", "nms_threshold"), float("nan"), "detection.nms_threshold"),
        (("head", "early_fusion"), 1, "head.early_fusion 1: expected bool"),
        (("name",), 3, "name 3: expected str"),
    ],
)
def test_wrong_manifests(path: tuple[str, ...], value: object, message: str) -> None:
    data = config_to_dict(GlipConfig())
    place = data
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match=f"manifest's configuration: .*{message}"):
        config_from_dict(data)


def test_missing_fields_of_a_manifest() -> None:
    data = config_to_dict(GlipConfig())
    del data["detection"]["chunk"]
    with pytest.raises(ConfigError, match=r"missing field detection\.chunk"):
        config_from_dict(data)
    with pytest.raises(ConfigError, match="not a mapping"):
        config_from_dict([])  # type: ignore[arg-type]


def test_a_field_that_nothing_reads_any_more_is_passed_over() -> None:
    data = config_to_dict(GlipConfig())
    data["detection"]["batch_size"] = 64  # as manifests had it
    assert config_from_dict(data) == GlipConfig()


# --- several scales


def test_settings_of_several_scales_matter_only_where_they_are_asked_for() -> None:
    plain = load_tiny()
    assert plain.multiscale == MultiscaleConfig() and not plain.detection.several_scales
    assert plain.detection.most_detections == 100
    assert load_tiny("TEST.SCALES", "()", "TEST.MAX_SIZE", "-1", "TEST.TH", "1e999") == plain


def test_several_scales() -> None:
    ranges = ("TEST.RANGES", "((48, 10000), [0, 128.5])")
    config = load_tiny(*SEVERAL_SCALES, "TEST.SCALES", "(160, 224)", *ranges, "TEST.SPECIAL_NMS", "soft-vote")
    assert config.detection.most_detections == 5 * 300
    assert config.multiscale == MultiscaleConfig(
        scales=(160, 224), ranges=(SizeRange(48, 10000), SizeRange(0, 128.5)), special_nms="soft-vote"
    )
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
    assert load_tiny().strictest_image == config.image
    assert config.strictest_image == replace(config.image, min_size=224, max_size=2500)


def test_ranges_that_are_not_as_many_as_scales_are_none() -> None:
    assert len(load_tiny(*SEVERAL_SCALES).multiscale.ranges) == 12
    assert load_tiny(*SEVERAL_SCALES, "TEST.SCALES", "(160,)").multiscale.ranges == ()


def test_a_configuration_of_before_there_were_several_scales() -> None:
    values = config_to_dict(load_tiny())
    del values["multiscale"], values["detection"]["several_scales"]
    assert config_from_dict(values) == load_tiny()
