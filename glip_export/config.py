"""Official GLIP configurations (yacs YAML plus KEY VALUE overrides) as frozen dataclasses.

The dataclasses hold only what inference needs; every field names its official key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from glip_export.errors import ConfigError
from glip_export.published import identify, official_values
from glip_export.supported import check_supported
from glip_export.yacs import Values, layer, literal, parse_overrides, read_small_text, read_yaml, show

T = TypeVar("T")


def load_config(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    bert_config: Path | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    weights_name: str = "",
) -> GlipConfig:
    """The configuration of a GLIP: an official YAML, or the published one that a checkpoint's shapes identify.

    `overrides` is KEY VALUE KEY VALUE ...; `bert_config` a transformers config.json, bert-base-uncased without it;
    `shapes` maps state-dict keys (without `module.`) to shapes; `weights_name`, the weights' file name, tells models
    of the same shapes apart. Raises ConfigError, naming the file and key, for what cannot be read or is not supported.
    """
    bert = read_bert_config(bert_config) if bert_config is not None else BertConfig()
    if path is not None:
        name, origin, given = Path(path).stem, Path(path).name, read_yaml(Path(path))
    elif shapes is not None:
        name = identify(shapes, weights_name)
        origin, given = f"published {name}", official_values(name)
    else:
        raise ConfigError("no configuration: give an official YAML with --config")
    changed = parse_overrides(overrides)
    if "MODEL.META_ARCHITECTURE" not in {**given, **changed}:
        raise ConfigError(
            f"{path}: sets no MODEL.META_ARCHITECTURE, so it describes a task or data set, not a GLIP; give the "
            f"model's YAML (such as glip_Swin_T_O365_GoldG.yaml) and the task's settings as KEY VALUE"
        )
    values = layer((origin, given), ("override", changed))
    check_supported(values, bert)
    return _from_values(name, values, bert)


@dataclass(frozen=True)
class ImageConfig:
    """How a picture becomes the network's input."""

    min_size: int = 800  # INPUT.MIN_SIZE_TEST, pixels of the short side
    max_size: int = 1333  # INPUT.MAX_SIZE_TEST, pixels of the long side
    mean: tuple[float, float, float] = (103.53, 116.28, 123.675)  # INPUT.PIXEL_MEAN
    std: tuple[float, float, float] = (57.375, 57.12, 58.395)  # INPUT.PIXEL_STD
    bgr255: bool = True  # INPUT.TO_BGR255: BGR 0..255, else RGB 0..1
    size_divisor: int = 32  # DATALOADER.SIZE_DIVISIBILITY


@dataclass(frozen=True)
class BertConfig:
    """Sizes of the text encoder (--bert-config; bert-base-uncased by default)."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12


@dataclass(frozen=True)
class TextConfig:
    """The language backbone and the caption's form."""

    bert: BertConfig = field(default_factory=BertConfig)
    max_query_len: int = 256  # MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN, tokens
    n_layers: int = 1  # MODEL.LANGUAGE_BACKBONE.N_LAYERS
    separator: str = ". "  # DATASETS.SEPARATION_TOKENS


@dataclass(frozen=True)
class SwinConfig:
    """MODEL.SWINT."""

    embed_dim: int = 96
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    num_heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class HeadConfig:
    """MODEL.DYHEAD: the tower of VLFuse, BertEncoderLayer and DyConv, and its predictions."""

    channels: int = 256  # MODEL.DYHEAD.CHANNELS, equal to MODEL.BACKBONE.OUT_CHANNELS and FUSE_CONFIG.JOINT_EMB_SIZE
    num_convs: int = 6  # MODEL.DYHEAD.NUM_CONVS
    group_norm_groups: int = 16  # MODEL.GROUP_NORM.NUM_GROUPS
    early_fusion: bool = True  # FUSE_CONFIG.EARLY_FUSE_ON
    fused_dot_product: bool = True  # FUSE_CONFIG.USE_FUSED_FEATURES_DOT_PRODUCT
    clamp_fusion_min: bool = True  # FUSE_CONFIG.CLAMP_MIN_FOR_UNDERFLOW
    clamp_fusion_max: bool = True  # FUSE_CONFIG.CLAMP_MAX_FOR_OVERFLOW
    stable_softmax: bool = False  # FUSE_CONFIG.STABLE_SOFTMAX_2D
    clamp_text_min: bool = True  # FUSE_CONFIG.CLAMP_BERTATTN_MIN_FOR_UNDERFLOW
    clamp_text_max: bool = True  # FUSE_CONFIG.CLAMP_BERTATTN_MAX_FOR_OVERFLOW
    clamp_dot_product: bool = True  # FUSE_CONFIG.CLAMP_DOT_PRODUCT


@dataclass(frozen=True)
class DetectionConfig:
    """MODEL.ATSS, MODEL.RPN and TEST: from logits to detections."""

    score_agg: str = "MEAN"  # MODEL.DYHEAD.SCORE_AGG: MEAN, MAX or POWER over a class's tokens
    score_threshold: float = 0.05  # MODEL.ATSS.INFERENCE_TH
    pre_nms_top_n: int = 1000  # MODEL.ATSS.PRE_NMS_TOP_N, per level
    nms_threshold: float = 0.6  # MODEL.ATSS.NMS_TH
    detections_per_image: int = 100  # MODEL.ATSS.DETECTIONS_PER_IMG
    anchor_sizes: tuple[float, ...] = (64, 128, 256, 512, 1024)  # MODEL.RPN.ANCHOR_SIZES, pixels
    anchor_strides: tuple[int, ...] = (8, 16, 32, 64, 128)  # MODEL.RPN.ANCHOR_STRIDE, pixels
    chunk: int = -1  # TEST.CHUNKED_EVALUATION: names a caption, -1 for as many as fit
    batch_size: int = 1  # TEST.IMS_PER_BATCH


@dataclass(frozen=True)
class GlipConfig:
    """All that inference needs to know of a GLIP; the bundle's manifest carries it."""

    name: str = "glip_Swin_T_O365_GoldG"
    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    swin: SwinConfig = field(default_factory=SwinConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)


def _from_values(name: str, values: Values, bert: BertConfig) -> GlipConfig:
    model, dyhead, atss = "MODEL.", "MODEL.DYHEAD.", "MODEL.ATSS."
    fuse = dyhead + "FUSE_CONFIG."
    return GlipConfig(
        name=name,
        image=ImageConfig(
            min_size=values["INPUT.MIN_SIZE_TEST"],
            max_size=values["INPUT.MAX_SIZE_TEST"],
            mean=values["INPUT.PIXEL_MEAN"],
            std=values["INPUT.PIXEL_STD"],
            bgr255=values["INPUT.TO_BGR255"] or values["INPUT.FORMAT"] == "bgr255",
            size_divisor=values["DATALOADER.SIZE_DIVISIBILITY"],
        ),
        text=TextConfig(
            bert=bert,
            max_query_len=values[model + "LANGUAGE_BACKBONE.MAX_QUERY_LEN"],
            n_layers=values[model + "LANGUAGE_BACKBONE.N_LAYERS"],
            separator=values["DATASETS.SEPARATION_TOKENS"],
        ),
        swin=SwinConfig(
            embed_dim=values[model + "SWINT.EMBED_DIM"],
            depths=values[model + "SWINT.DEPTHS"],
            num_heads=values[model + "SWINT.NUM_HEADS"],
            window_size=values[model + "SWINT.WINDOW_SIZE"],
            mlp_ratio=values[model + "SWINT.MLP_RATIO"],
        ),
        head=HeadConfig(
            channels=values[dyhead + "CHANNELS"],
            num_convs=values[dyhead + "NUM_CONVS"],
            group_norm_groups=values[model + "GROUP_NORM.NUM_GROUPS"],
            early_fusion=values[fuse + "EARLY_FUSE_ON"],
            fused_dot_product=values[fuse + "USE_FUSED_FEATURES_DOT_PRODUCT"],
            clamp_fusion_min=values[fuse + "CLAMP_MIN_FOR_UNDERFLOW"],
            clamp_fusion_max=values[fuse + "CLAMP_MAX_FOR_OVERFLOW"],
            stable_softmax=values[fuse + "STABLE_SOFTMAX_2D"],
            clamp_text_min=values[fuse + "CLAMP_BERTATTN_MIN_FOR_UNDERFLOW"],
            clamp_text_max=values[fuse + "CLAMP_BERTATTN_MAX_FOR_OVERFLOW"],
            clamp_dot_product=values[fuse + "CLAMP_DOT_PRODUCT"],
        ),
        detection=DetectionConfig(
            score_agg=values[dyhead + "SCORE_AGG"],
            score_threshold=values[atss + "INFERENCE_TH"],
            pre_nms_top_n=values[atss + "PRE_NMS_TOP_N"],
            nms_threshold=values[atss + "NMS_TH"],
            detections_per_image=values[atss + "DETECTIONS_PER_IMG"],
            anchor_sizes=values[model + "RPN.ANCHOR_SIZES"],
            anchor_strides=values[model + "RPN.ANCHOR_STRIDE"],
            chunk=values["TEST.CHUNKED_EVALUATION"],
            batch_size=values["TEST.IMS_PER_BATCH"],
        ),
    )


# What transformers' BertConfig may say and we rebuild; a field that is absent has the first value.
BERT_RULES = {"model_type": ("bert",), "hidden_act": ("gelu",), "position_embedding_type": ("absolute", None)}
PACKAGED_VOCABULARY = 30522  # tokens of data/bert_base_uncased_vocab.txt


def read_bert_config(path: Path) -> BertConfig:
    """A transformers config.json of a BERT; fields that say nothing of its sizes are ignored.

    Raises ConfigError, naming the file and field.
    """
    path = Path(path)
    text = read_small_text(path, "BERT configuration")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a BERT configuration in JSON: {error}") from error
    known = {item.name for item in fields(BertConfig)}
    if not isinstance(data, dict) or not known & data.keys():
        raise ConfigError(f"{path}: no BERT configuration: none of hidden_size, num_hidden_layers, ... is in it")
    for name, accepted in BERT_RULES.items():
        if data.get(name, accepted[0]) not in accepted:
            raise ConfigError(f"{path}: {name} {show(data[name])} is not supported: only {accepted[0]} is rebuilt")
    given = {name: value for name, value in data.items() if name in known}
    bert: BertConfig = _restore(BertConfig, {**asdict(BertConfig()), **given}, f"{path}: ", "")
    for name, value in asdict(bert).items():
        if value <= 0:
            raise ConfigError(f"{path}: {name} {value} is not supported: expected a number above 0")
    if bert.hidden_size % bert.num_attention_heads:
        raise ConfigError(f"{path}: num_attention_heads {bert.num_attention_heads} must divide {bert.hidden_size}")
    if bert.vocab_size < PACKAGED_VOCABULARY:
        raise ConfigError(f"{path}: vocab_size {bert.vocab_size} is less than bert-base-uncased's 30522 tokens")
    return bert


def config_to_dict(config: GlipConfig) -> dict[str, Any]:
    """The configuration as plain values, for JSON; `config_from_dict` gives it back."""
    return asdict(config)


def config_from_dict(data: Mapping[str, Any]) -> GlipConfig:
    """What `config_to_dict` wrote, through JSON or not.

    Raises ConfigError if a field is unknown, missing or of the wrong type.
    """
    return _restore(GlipConfig, data, "manifest's configuration: ", "")


def _restore(cls: type[T], data: Any, source: str, prefix: str) -> T:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}{prefix.rstrip('.') or 'it'} is not a mapping")
    types = get_type_hints(cls)
    if unknown := sorted(map(str, data.keys() - types.keys())):
        raise ConfigError(f"{source}unknown field {prefix}{unknown[0]}")
    if missing := [name for name in types if name not in data]:
        raise ConfigError(f"{source}missing field {prefix}{missing[0]}")
    restored = {}
    for name, kind in types.items():
        if isinstance(kind, type) and is_dataclass(kind):
            restored[name] = _restore(kind, data[name], source, f"{prefix}{name}.")
        else:
            value = literal(data[name]) if isinstance(data[name], list) else data[name]
            if not _is_a(value, kind):
                words = getattr(kind, "__name__", "tuple") if get_origin(kind) is None else str(kind)
                raise ConfigError(f"{source}{prefix}{name} {show(value)}: expected {words}")
            restored[name] = value
    return cls(**restored)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a plain value has a field's type: bool, int, float (finite, an int may stand for it), str or a tuple."""
    if get_origin(kind) is tuple:
        items = get_args(kind)
        length = len(value) if isinstance(value, tuple) and items[-1] is ... else len(items)
        return isinstance(value, tuple) and len(value) == length > 0 and all(_is_a(item, items[0]) for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind
