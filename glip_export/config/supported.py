"""What of the official configuration is rebuilt here: one table of values, one of numbers, one of relations.

What is in none of them has no influence here: keys.py says of every official key what becomes of it, and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from glip_export.config import multiscale
from glip_export.config.bert import BertConfig
from glip_export.config.yacs import Values
from glip_export.errors import ConfigError


def check_supported(values: Values, bert: BertConfig, only: Callable[[str], bool] = lambda key: True) -> None:
    """Raises ConfigError for the first key whose value would make another network or result than ours.

    only: says which keys count.
    """
    for rule in filter(lambda rule: only(rule.key), RULES):
        if values[rule.key] not in rule.accepted and (not rule.only_if or values[rule.only_if]):
            raise ConfigError(f"{values.describe(rule.key)} is not supported: {rule.why}")
    for number in filter(lambda number: only(number.key), NUMBERS):
        if not number.holds(values[number.key]):
            raise ConfigError(f"{values.describe(number.key)} is not supported: expected {number.words()}")
    for relation in filter(lambda relation: all(map(only, relation.keys)), RELATIONS):
        if not relation.holds(values, bert):
            raise ConfigError(f"{'; '.join(map(values.describe, relation.keys))} is not supported: {relation.why}")


@dataclass(frozen=True)
class Rule:
    """The values of a key that are rebuilt; it matters only if the boolean key `only_if` is on."""

    key: str
    accepted: tuple[Any, ...]
    why: str
    only_if: str = ""


@dataclass(frozen=True)
class Number:
    """A number, or `count` of them, from `low` (itself excluded if `above`) to `high`."""

    key: str
    low: float = 1
    high: float = math.inf
    count: int = 0
    whole: bool = True
    above: bool = False

    def holds(self, value: Any) -> bool:
        """Whether the value (a tuple if there is a `count`) is such a number."""
        items = value if self.count else (value,)
        return len(items) == (self.count or 1) and all(self._item_holds(item) for item in items)

    def _item_holds(self, item: Any) -> bool:
        if isinstance(item, bool) or not isinstance(item, int if self.whole else (int, float)):
            return False
        return math.isfinite(item) and self.low <= item <= self.high and not (self.above and item == self.low)

    def words(self) -> str:
        """What was expected, for a message."""
        what = "whole number" if self.whole else "number"
        what = f"{self.count} {what}s" if self.count else f"a {what}"
        bounds = [] if self.low == -math.inf else [f"{'above' if self.above else 'at least'} {self.low:g}"]
        bounds += [] if self.high == math.inf else [f"at most {self.high:g}"]
        return " ".join([what, " and ".join(bounds)]).strip()


@dataclass(frozen=True)
class Relation:
    """What must hold between keys, or between a key and BERT's sizes."""

    keys: tuple[str, ...]
    holds: Callable[[Values, BertConfig], bool]
    why: str


DYHEAD, FUSE = "MODEL.DYHEAD", "MODEL.DYHEAD.FUSE_CONFIG"
BACKBONE, FPN, SWINT = "MODEL.BACKBONE", "MODEL.FPN", "MODEL.SWINT"
LANGUAGE, RPN, ATSS = "MODEL.LANGUAGE_BACKBONE", "MODEL.RPN", "MODEL.ATSS"

PROMPT_TABLE_ROWS = 1000  # GLIP: tunable_linear
PROMPT_TUNINGS = ("language_prompt_v2", "language_prompt_v4")  # of SOLVER.TUNING_HIGHLEVEL_OVERRIDE

PLAIN_FPN = "only the plain feature pyramid is rebuilt"
ONE_ANCHOR = "GLIP has one square anchor a position"
DYCONV = "only DyConv of deformable convolutions, GroupNorm and dynamic ReLU is rebuilt"
DOT_PRODUCT = "classes are scored only by the dot product of positions and tokens"

RULES = (
    Rule("MODEL.META_ARCHITECTURE", ("GeneralizedVLRCNN",), "only GLIP (GeneralizedVLRCNN) is rebuilt"),
    Rule("MODEL.RPN_ARCHITECTURE", ("VLDYHEAD",), "only GLIP's head (VLDYHEAD) is rebuilt"),
    Rule("MODEL.RPN_ONLY", (True,), "a second stage behind GLIP's head is not rebuilt"),
    Rule("MODEL.MASK_ON", (False,), "mask heads are not rebuilt"),
    Rule("MODEL.KEYPOINT_ON", (False,), "keypoint heads are not rebuilt"),
    Rule(
        f"{BACKBONE}.CONV_BODY", ("SWINT-FPN-RETINANET",), "only Swin with a pyramid (SWINT-FPN-RETINANET) is rebuilt"
    ),
    Rule(f"{BACKBONE}.OUT_FEATURES", (("stage2", "stage3", "stage4", "stage5"),), "the pyramid stands on all stages"),
    Rule(f"{BACKBONE}.FPN_LAYER", ((),), PLAIN_FPN),
    Rule(f"{SWINT}.VERSION", ("v1", "vl", "v2", "v2_vl"), "Swin has the versions v1, vl, v2 and v2_vl"),
    *(
        Rule(f"{FPN}.{name}", (False,), PLAIN_FPN)
        for name in ("USE_GN", "USE_RELU", "USE_DYRELU", "USE_DYHEAD", "USE_PAN", "USE_SPP")
    ),
    Rule("MODEL.GROUP_NORM.DIM_PER_GP", (-1,), "GroupNorm is sized by NUM_GROUPS"),
    Rule(f"{LANGUAGE}.MODEL_TYPE", ("bert-base-uncased",), "only BERT encodes text, neither RNN, CLIP nor RoBERTa"),
    Rule(f"{LANGUAGE}.TOKENIZER_TYPE", ("bert-base-uncased",), "only BERT's WordPiece is packaged"),
    Rule("GLIPKNOW.PARALLEL_LANGUAGE_INPUT", (False,), "every prompt is one caption, not one caption a class"),
    Rule("DATASETS.ONE_HOT", (False,), "classes are words of a caption, not one-hot tokens"),
    Rule("DATASETS.CLASS_AGNOSTIC", (False,), "objects are evaluated by their class"),
    Rule("DATASETS.GENERAL_COPY_TEST", (-1,), "an evaluation takes every picture once"),
    *(Rule(f"{DYHEAD}.{name}", (True,), DYCONV) for name in ("USE_GN", "USE_DYRELU", "USE_DFCONV", "USE_DYFUSE")),
    Rule(f"{DYHEAD}.CONV_FUNC", ("",), DYCONV),
    Rule(f"{DYHEAD}.GROUPS", (1,), DYCONV),
    Rule(f"{DYHEAD}.COSINE_SCALE", (-1.0,), DOT_PRODUCT),
    Rule(
        f"{DYHEAD}.SCORE_AGG",
        ("MEAN", "MAX", "POWER"),
        "a class's score is the MEAN, MAX or POWER (geometric mean) of its tokens'",
    ),
    Rule(f"{FUSE}.USE_DOT_PRODUCT_TOKEN_LOSS", (True,), DOT_PRODUCT),
    Rule(f"{FUSE}.USE_CONTRASTIVE_ALIGN_LOSS", (False,), DOT_PRODUCT),
    Rule(f"{FUSE}.USE_TOKEN_LOSS", (False,), DOT_PRODUCT),
    Rule(f"{RPN}.USE_FPN", (True,), "anchors stand on a pyramid"),
    Rule(f"{RPN}.ASPECT_RATIOS", ((1.0,),), ONE_ANCHOR),
    Rule(f"{RPN}.SCALES_PER_OCTAVE", (1,), ONE_ANCHOR),
    Rule(f"{RPN}.ANCHOR_SHIFT", ((0.0, 0.0, 0.0, 0.0),), ONE_ANCHOR),
    Rule(f"{RPN}.USE_RELATIVE_SIZE", (False,), ONE_ANCHOR),
    Rule(f"{RPN}.FORCE_BOXES", (False,), "boxes are detected, not given"),
    Rule("INPUT.FIX_RES", (False,), "pictures keep their aspect ratio"),
    Rule("INPUT.FORMAT", ("", "bgr255"), "the order and range of colours follow INPUT.TO_BGR255"),
    Rule("TEST.EVAL_TASK", ("", "detection"), "data sets are asked for their categories, not for their sentences"),
    Rule("TEST.SUBSET", (-1,), "an evaluation is cut short by --limit, which counts pictures, not batches"),
)

NUMBERS = (
    Number("INPUT.MIN_SIZE_TEST"),
    Number("INPUT.MAX_SIZE_TEST"),
    Number("INPUT.PIXEL_MEAN", low=-math.inf, count=3, whole=False),
    Number("INPUT.PIXEL_STD", low=0, count=3, whole=False, above=True),
    Number(f"{SWINT}.EMBED_DIM"),
    Number(f"{SWINT}.DEPTHS", count=4),
    Number(f"{SWINT}.NUM_HEADS", count=4),
    Number(f"{SWINT}.OUT_CHANNELS", count=4),
    Number(f"{SWINT}.WINDOW_SIZE", low=2),
    Number(f"{SWINT}.MLP_RATIO", low=0, whole=False, above=True),
    Number(f"{BACKBONE}.OUT_CHANNELS"),
    Number(f"{LANGUAGE}.MAX_QUERY_LEN", low=3),  # [CLS], a token, [SEP]
    Number(f"{LANGUAGE}.N_LAYERS"),
    Number(f"{DYHEAD}.CHANNELS", low=4),  # DyReLU squeezes by 4
    Number(f"{DYHEAD}.NUM_CONVS"),
    Number("MODEL.GROUP_NORM.NUM_GROUPS"),
    Number(f"{RPN}.ANCHOR_SIZES", low=0, count=5, whole=False, above=True),
    Number(f"{RPN}.ANCHOR_STRIDE", count=5),
    Number(f"{ATSS}.INFERENCE_TH", low=0, high=1, whole=False),
    Number(f"{ATSS}.PRE_NMS_TOP_N"),
    Number(f"{ATSS}.NMS_TH", low=0, high=1, whole=False, above=True),
    Number(f"{ATSS}.DETECTIONS_PER_IMG"),
    Number("TEST.CHUNKED_EVALUATION", low=-1),
    Number("TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM", low=-1),
)


def _stage_dims(values: Values) -> tuple[int, ...]:
    return tuple(values[f"{SWINT}.EMBED_DIM"] * 2**stage for stage in range(4))


RELATIONS = (
    Relation(
        (f"{SWINT}.EMBED_DIM", f"{SWINT}.NUM_HEADS"),
        lambda v, bert: all(
            dim % heads == 0 for dim, heads in zip(_stage_dims(v), v[f"{SWINT}.NUM_HEADS"], strict=True)
        ),
        "every stage's heads must divide its channels (EMBED_DIM, doubling each stage)",
    ),
    Relation(
        (f"{SWINT}.EMBED_DIM", f"{SWINT}.OUT_CHANNELS"),
        lambda v, bert: v[f"{SWINT}.OUT_CHANNELS"] == _stage_dims(v),
        "OUT_CHANNELS must be EMBED_DIM, doubling each stage",
    ),
    Relation(
        (f"{DYHEAD}.CHANNELS", f"{BACKBONE}.OUT_CHANNELS"),
        lambda v, bert: v[f"{DYHEAD}.CHANNELS"] == v[f"{BACKBONE}.OUT_CHANNELS"],
        "the head and the pyramid must have the same channels",
    ),
    Relation(
        (f"{DYHEAD}.CHANNELS", f"{FUSE}.JOINT_EMB_SIZE"),
        lambda v, bert: v[f"{DYHEAD}.CHANNELS"] == v[f"{FUSE}.JOINT_EMB_SIZE"] or not v[f"{FUSE}.EARLY_FUSE_ON"],
        "the head and the fusion must have the same channels",
    ),
    Relation(
        (f"{FUSE}.TYPE",),
        lambda v, bert: v[f"{FUSE}.TYPE"] != "SCAN" or not v[f"{FUSE}.EARLY_FUSE_ON"],
        "the original cannot run it either (a batched product of maps)",
    ),
    Relation(
        (f"{FUSE}.TYPE",),
        lambda v, bert: v[f"{FUSE}.TYPE"] != "FILM" or not v[f"{FUSE}.EARLY_FUSE_ON"],
        "FILM is not rebuilt: no model that was trained with it is known, and nothing to hold it to",
    ),
    Relation(
        (f"{FUSE}.ADD_LINEAR_LAYER", f"{LANGUAGE}.MAX_QUERY_LEN"),
        lambda v, bert: v[f"{LANGUAGE}.MAX_QUERY_LEN"] <= PROMPT_TABLE_ROWS or not v[f"{FUSE}.ADD_LINEAR_LAYER"],
        f"the table of prompt tuning has {PROMPT_TABLE_ROWS} rows, one a token",
    ),
    Relation(
        (f"{DYHEAD}.CHANNELS", "MODEL.GROUP_NORM.NUM_GROUPS"),
        lambda v, bert: v[f"{DYHEAD}.CHANNELS"] % v["MODEL.GROUP_NORM.NUM_GROUPS"] == 0,
        "the groups must divide the channels",
    ),
    Relation(
        (f"{LANGUAGE}.LANG_DIM",),
        lambda v, bert: v[f"{LANGUAGE}.LANG_DIM"] == bert.hidden_size,
        "it must be BERT's hidden_size (768, or what --bert-config says)",
    ),
    Relation(
        (f"{LANGUAGE}.N_LAYERS",),
        lambda v, bert: v[f"{LANGUAGE}.N_LAYERS"] <= bert.num_hidden_layers,
        "BERT has no more than num_hidden_layers (12, or what --bert-config says)",
    ),
    Relation(
        (f"{LANGUAGE}.MAX_QUERY_LEN",),
        lambda v, bert: v[f"{LANGUAGE}.MAX_QUERY_LEN"] <= bert.max_position_embeddings,
        "BERT has no more than max_position_embeddings positions (512, or what --bert-config says)",
    ),
    Relation(
        ("DATALOADER.SIZE_DIVISIBILITY",),
        lambda v, bert: v["DATALOADER.SIZE_DIVISIBILITY"] > 0 and v["DATALOADER.SIZE_DIVISIBILITY"] % 32 == 0,
        "pictures are padded to a multiple of 32",
    ),
    Relation(
        ("TEST.CHUNKED_EVALUATION",),
        lambda v, bert: v["TEST.CHUNKED_EVALUATION"] != 0,
        "it is names a caption, or -1 for as many as fit",
    ),
    Relation(
        ("TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM",),
        lambda v, bert: v["TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM"] != 0,
        "it is the names that a prompt may have, or -1 for any number",
    ),
    *(
        Relation(keys, lambda v, bert, holds=holds: not v["TEST.USE_MULTISCALE"] or holds(v), why)  # type: ignore[misc]
        for keys, holds, why in (
            (("TEST.SCALES", "TEST.MAX_SIZE"), multiscale.sizes_hold, multiscale.SIZES),
            (("TEST.RANGES",), multiscale.ranges_hold, multiscale.RANGES),
            (("TEST.TH", "MODEL.RETINANET.INFERENCE_TH"), multiscale.thresholds_hold, "they are finite numbers"),
            (("TEST.SELECT_CLASSES",), multiscale.classes_hold, "it lists numbers of names, from 1"),
        )
    ),
    Relation(("DATASETS.SEPARATION_TOKENS",), lambda v, bert: v["DATASETS.SEPARATION_TOKENS"] != "", "names need one"),
)
