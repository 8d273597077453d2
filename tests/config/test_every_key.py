"""Every key of the official defaults is honoured, refused, or without influence, and none is accepted and ignored."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from glip_export.config import GlipConfig, config_to_dict, load_config
from glip_export.config.keys import HONOURED, WITHOUT_INFLUENCE, Unread, refused
from glip_export.config.yacs import official_keys, read_yaml
from glip_export.errors import ConfigError

TINY = Path(__file__).parents[1] / "data" / "oracle" / "full_dump"
KEYS = official_keys()
FUSE = "MODEL.DYHEAD.FUSE_CONFIG."

# A value that is not the small model's, and what must change with it; what follows by itself is `changed`.
OTHER_VALUES: dict[str, tuple[str, ...]] = {
    "INPUT.MIN_SIZE_TEST": ("480",),
    "INPUT.MAX_SIZE_TEST": ("640",),
    "INPUT.PIXEL_MEAN": ("(1, 2, 3)",),
    "INPUT.PIXEL_STD": ("(1, 2, 3)",),
    "INPUT.TO_BGR255": ("False",),
    "DATALOADER.SIZE_DIVISIBILITY": ("64",),
    "MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN": ("128",),
    "MODEL.LANGUAGE_BACKBONE.N_LAYERS": ("2",),
    "DATASETS.SEPARATION_TOKENS": (", ",),
    "MODEL.SWINT.EMBED_DIM": ("48", "MODEL.SWINT.OUT_CHANNELS", "(48, 96, 192, 384)"),
    "MODEL.SWINT.DEPTHS": ("(2, 2, 4, 2)",),
    "MODEL.SWINT.NUM_HEADS": ("(2, 2, 4, 4)",),
    "MODEL.SWINT.WINDOW_SIZE": ("12",),
    "MODEL.SWINT.MLP_RATIO": ("2",),
    "MODEL.DYHEAD.CHANNELS": ("32", "MODEL.BACKBONE.OUT_CHANNELS", "32", FUSE + "JOINT_EMB_SIZE", "32"),
    "MODEL.DYHEAD.NUM_CONVS": ("3",),
    "MODEL.GROUP_NORM.NUM_GROUPS": ("8",),
    "MODEL.LANGUAGE_BACKBONE.MASK_SPECIAL": ("True",),
    "MODEL.SWINT.VERSION": ("v2_vl",),
    "MODEL.SWINT.APE": ("True",),
    "MODEL.SWINT.LAYER_SCALE": ("1",),
    "MODEL.SWINT.OUT_NORM": ("False",),
    FUSE + "TYPE": ("MHA-S",),
    FUSE + "USE_LAYER_SCALE": ("False",),
    FUSE + "SEPARATE_BIDIRECTIONAL": ("True",),
    FUSE + "DO_LANG_PROJ_OUTSIDE_CHECKPOINT": ("True",),
    FUSE + "ADD_LINEAR_LAYER": ("True",),
    "SOLVER.TUNING_HIGHLEVEL_OVERRIDE": ("language_prompt_v4",),
    FUSE + "STABLE_SOFTMAX_2D": ("True",),
    "MODEL.DYHEAD.SCORE_AGG": ("MAX",),
    "MODEL.ATSS.INFERENCE_TH": ("0.1",),
    "MODEL.ATSS.PRE_NMS_TOP_N": ("200",),
    "MODEL.ATSS.NMS_TH": ("0.5",),
    "MODEL.ATSS.DETECTIONS_PER_IMG": ("300",),
    "MODEL.RPN.ANCHOR_SIZES": ("(32, 64, 128, 256, 512)",),
    "MODEL.RPN.ANCHOR_STRIDE": ("(4, 8, 16, 32, 64)",),
    "TEST.CHUNKED_EVALUATION": ("40",),
    "TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM": ("100",),
    "TEST.USE_MULTISCALE": ("True",),
    "TEST.SCALES": ("(100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1100, 1200)",),
    "TEST.MAX_SIZE": ("1333",),
    "TEST.RANGES": (str(((0, 96),) * 12),),
    "TEST.FLIP": ("False",),
    "TEST.SPECIAL_NMS": ("soft-vote",),
    "TEST.TH": ("0.5",),
    "MODEL.RETINANET.INFERENCE_TH": ("0.01",),
    "TEST.PRE_NMS_TOP_N": ("0",),
    "TEST.NUM_CLASSES": ("1204",),
    "TEST.SELECT_CLASSES": ("(1, 3)",),
    "DATASETS.OVERRIDE_CATEGORY": ('[{"id": 1, "name": "fish"}]',),
    "DATASETS.CAPTION_PROMPT": ('[{"prefix": "a ", "name": "fish", "suffix": ""}]',),
    "DATASETS.SUPRESS_QUERY": ('["sea"]',),
    **{key: ("False",) for key in HONOURED if "CLAMP_" in key or key.endswith(("EARLY_FUSE_ON", "_DOT_PRODUCT"))},
    **{key: ("True",) for key in HONOURED if key.startswith("DATASETS.USE_")},
}
# What else must be so for a key to matter.
BASES = {
    "INPUT.FORMAT": ("INPUT.TO_BGR255", "False"),
    "TEST.USE_MULTISCALE": ("TEST.RANGES", "()"),
    **{key: ("TEST.USE_MULTISCALE", "True") for key, field in HONOURED.items() if field.startswith("multiscale.")},
}
BY_TYPE: dict[str, tuple[Any, ...]] = {
    "bool": (True, False),
    "int": (7, 1),
    "float": (0.123, 2),
    "str": ("other",),
    "list": ((9, 9, 9, 9), ()),
    "dict": ({"a": 1},),
    "any": ("other", None),
}


@pytest.fixture(autouse=True, scope="module")
def read_once() -> Iterator[None]:
    """The YAML is read once for all: it is the overrides that change."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("glip_export.config.load.read_yaml", cache(read_yaml))
        yield


def load(*overrides: str) -> GlipConfig:
    return load_config(TINY / "config.yaml", overrides, TINY / "bert_config.json")


def test_every_key_is_in_one_place() -> None:
    assert len(KEYS) == 458
    for key in KEYS:
        places = [key in HONOURED, key in refused(), *(group.covers(key) for group in WITHOUT_INFLUENCE)]
        assert sum(places) == 1, key


def test_the_tables_name_only_official_keys_and_give_reasons() -> None:
    own = [key for group in WITHOUT_INFLUENCE for key in group.keys]
    assert len(set(own)) == len(own) and HONOURED.keys() <= KEYS.keys()
    assert not [key for key in own if not any(Unread("", (key,)).covers(official) for official in KEYS)]
    assert all(len(why.split()) >= 3 for why in [*refused().values(), *(group.why for group in WITHOUT_INFLUENCE)])
    assert len({group.why for group in WITHOUT_INFLUENCE}) == len(WITHOUT_INFLUENCE)


def test_what_inference_reads_is_what_is_honoured_or_refused() -> None:
    assert {name for name, key in KEYS.items() if key.used} == HONOURED.keys() | refused().keys()


@pytest.mark.parametrize("key", HONOURED)
def test_an_honoured_key_changes_its_field_and_no_other(key: str) -> None:
    base = BASES.get(key, ())
    value = ("bgr255",) if key == "INPUT.FORMAT" else OTHER_VALUES[key]
    before, after = _fields(load(*base)), _fields(load(*base, key, *value))
    assert [field for field in before if before[field] != after[field]] == [HONOURED[key]]


def test_every_field_of_the_configuration_has_its_key() -> None:
    fields = {field for field in _fields(GlipConfig()) if field != "name" and not field.startswith("text.bert")}
    assert fields == set(HONOURED.values())


@pytest.mark.parametrize("key", refused())
def test_a_refused_key_is_named_with_the_reason(key: str) -> None:
    messages = []
    for value in BY_TYPE[KEYS[key].type]:
        try:
            load(key, _typed(value))
        except ConfigError as error:
            messages.append(str(error))
    assert messages  # of True and False, one is what is rebuilt
    assert messages[0].endswith(f"is not supported: {refused()[key]}")
    for message in messages:
        assert key in message and "is not supported: " in message and "\n" not in message


@pytest.mark.parametrize("group", WITHOUT_INFLUENCE, ids=lambda group: group.keys[0])
def test_keys_without_influence_change_nothing(group: Unread) -> None:
    plain = load()
    for key in filter(group.covers, KEYS):
        for value in BY_TYPE[KEYS[key].type]:
            assert load(key, _typed(value)) == plain, key


def test_the_documentation_has_the_same_tables() -> None:
    """`python docs/make_configuration.py` writes them."""
    docs = Path(__file__).parents[2] / "docs"
    written = runpy.run_path(str(docs / "make_configuration.py"))
    assert (docs / "configuration.md").read_text(encoding="utf-8").endswith(written["BEGIN"] + written["tables"]())


def test_docs_models_names_every_refused_key() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    refusals = text.partition("## Not taken")[2].partition("\n## ")[0]
    assert not [key for key in refused() if f"`{key}`" not in refusals]


def _typed(value: Any) -> str:
    """As a person types it."""
    return value if isinstance(value, str) else repr(value)


def _fields(config: GlipConfig) -> dict[str, Any]:
    """{dotted field: value}, without what BERT's own file says."""
    return dict(_flat(config_to_dict(config), ""))


def _flat(values: dict[str, Any], prefix: str) -> Any:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
