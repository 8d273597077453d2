"""From an official YAML, or the shapes of a checkpoint, and overrides to the configuration that inference needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from glip_export.config.bert import BertConfig, read_bert_config
from glip_export.config.glip_config import DetectionConfig, GlipConfig, HeadConfig, ImageConfig, SwinConfig, TextConfig
from glip_export.config.keys import HONOURED
from glip_export.config.multiscale import read_multiscale
from glip_export.config.published import identify, official_values, structure
from glip_export.config.supported import PROMPT_TUNINGS, check_supported
from glip_export.config.task import read_task
from glip_export.config.yacs import Values, layer, parse_overrides, read_yaml
from glip_export.errors import ConfigError

EARLY = "MODEL.DYHEAD.FUSE_CONFIG.EARLY_FUSE_ON"
DOT_PRODUCT = "MODEL.DYHEAD.FUSE_CONFIG.USE_FUSED_FEATURES_DOT_PRODUCT"


def load_config(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    bert_config: Path | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    weights_name: str = "",
) -> GlipConfig:
    """The configuration of a GLIP: an official YAML, or the published one that a checkpoint's shapes identify.

    `overrides` is KEY VALUE KEY VALUE ...; `bert_config` a transformers config.json, bert-base-uncased without it;
    `shapes` maps state-dict keys (without `module.`) to shapes, which also tell of text that Swin fuses, MHA-S and the
    like; `weights_name`, the weights' file name, tells models
    of the same shapes apart. Raises ConfigError, naming the file and key, for what cannot be read or is not supported.
    """
    bert = read_bert_config(bert_config) if bert_config is not None else BertConfig()
    if path is not None:
        name, origin, given = Path(path).stem, Path(path).name, read_yaml(Path(path))
    elif shapes is not None:
        name = identify(shapes, weights_name)
        origin, given = f"published {name}", {**official_values(name), **structure(shapes)}
    else:
        raise ConfigError("no configuration: give an official YAML with --config")
    changed = parse_overrides(overrides)
    if path is None and given["MODEL.SWINT.VERSION"].endswith("vl") and not given[EARLY] and DOT_PRODUCT not in changed:
        raise ConfigError(
            f"these weights do not tell which text the logits read: say {DOT_PRODUCT} True (Swin's) or False (BERT's)"
        )
    if "MODEL.META_ARCHITECTURE" not in {**given, **changed}:
        raise ConfigError(
            f"{path}: sets no MODEL.META_ARCHITECTURE, so it describes a task or data set, not a GLIP; give the "
            f"model's YAML (such as glip_Swin_T_O365_GoldG.yaml) and the task's settings as KEY VALUE"
        )
    values = layer((origin, given), ("override", changed))
    check_supported(values, bert)
    return _from_values(name, values, bert)


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
            mask_special=values[model + "LANGUAGE_BACKBONE.MASK_SPECIAL"],
        ),
        swin=SwinConfig(
            embed_dim=values[model + "SWINT.EMBED_DIM"],
            depths=values[model + "SWINT.DEPTHS"],
            num_heads=values[model + "SWINT.NUM_HEADS"],
            window_size=values[model + "SWINT.WINDOW_SIZE"],
            mlp_ratio=values[model + "SWINT.MLP_RATIO"],
            version=values[model + "SWINT.VERSION"],
            position_embedding=values[model + "SWINT.APE"],
            layer_scale=bool(values[model + "SWINT.LAYER_SCALE"]),
            output_norms=values[model + "SWINT.OUT_NORM"],
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
            fusion=values[fuse + "TYPE"],
            layer_scale=values[fuse + "USE_LAYER_SCALE"],
            separates_levels=values[fuse + "SEPARATE_BIDIRECTIONAL"],
            shrinks_text_outside=values[fuse + "DO_LANG_PROJ_OUTSIDE_CHECKPOINT"],
            prompt_table=values[fuse + "ADD_LINEAR_LAYER"]
            or values["SOLVER.TUNING_HIGHLEVEL_OVERRIDE"] in PROMPT_TUNINGS,
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
            most_names=values["TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM"],
            several_scales=values["TEST.USE_MULTISCALE"],
        ),
        multiscale=read_multiscale(values),
        task=read_task(values),
    )


def missing_words(config: GlipConfig, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """KEY VALUE pairs that would make the configuration that of a state dict's structure; "" if it is."""
    words = []
    for key, value in structure(shapes).items():
        section, name = HONOURED[key].split(".")
        if getattr(getattr(config, section), name) != (bool(value) if key.endswith("LAYER_SCALE") else value):
            words.append(f"{key} {value}")
    return " ".join(words)
