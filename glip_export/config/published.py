"""The published GLIP models: where their weights are, their configurations, and how shapes tell them apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glip_export.errors import ConfigError


@dataclass(frozen=True)
class PublishedModel:
    """A checkpoint of GLIP's model zoo (github.com/microsoft/GLIP#model-zoo)."""

    title: str
    config: str  # the official YAML, without .yaml
    file: str
    data: str  # what it was trained on

    @property
    def address(self) -> str:
        """What --weights takes."""
        return f"hf://GLIPModel/GLIP/{self.file}"


PUBLISHED = (
    PublishedModel("GLIP-T (A)", "glip_A_Swin_T_O365", "glip_a_tiny_o365.pth", "O365"),
    PublishedModel("GLIP-T (B)", "glip_Swin_T_O365", "glip_tiny_model_o365.pth", "O365"),
    PublishedModel("GLIP-T (C)", "glip_Swin_T_O365_GoldG", "glip_tiny_model_o365_goldg.pth", "O365, GoldG"),
    PublishedModel(
        "GLIP-T", "glip_Swin_T_O365_GoldG", "glip_tiny_model_o365_goldg_cc_sbu.pth", "O365, GoldG, CC3M, SBU"
    ),
    PublishedModel("GLIP-L", "glip_Swin_L", "glip_large_model.pth", "FourODs, GoldG, CC3M+12M, SBU"),
)


def identify(shapes: Mapping[str, tuple[int, ...]], file_name: str = "") -> str:
    """The published configuration that a state dict's shapes (keys without `module.`) belong to.

    (B) and (C) have the same shapes and differ in their training only: (C) unless the file's name is (B)'s.
    Raises ConfigError if none fits.
    """
    found = architecture(shapes)
    names = [name for name in CONFIGURATIONS if _architecture_of(name) == found]
    if not names:
        raise ConfigError(
            f"no published GLIP has these weights' shapes ({_words(found)}): give the model's YAML with --config"
        )
    by_file = [name for name in names if file_name.startswith(f"{name}.") or file_name in _files(name)]
    return by_file[0] if by_file else names[0]


def official_values(name: str) -> dict[str, Any]:
    """The inference keys of a published configuration, over the official defaults."""
    return {**COMMON, **CONFIGURATIONS[name]}


@dataclass(frozen=True)
class Architecture:
    """What the shapes of a GLIP's weights tell."""

    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    channels: int
    blocks: int
    fusion: bool


def architecture(shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """Reads the sizes off the keys and shapes; 0 or () for what is not there. Of any dict, raising nothing."""
    heads: dict[int, int] = {}
    blocks: dict[int, set[int]] = {}
    window = 0
    for key, shape in shapes.items():
        if match := re.fullmatch(
            r"backbone\.body\.layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table", key
        ):
            stage = int(match[1])
            blocks.setdefault(stage, set()).add(int(match[2]))
            if len(shape) == 2:
                heads[stage] = shape[1]
                window = (round(shape[0] ** 0.5) + 1) // 2  # the table has (2 window - 1)^2 rows
    towers = [re.match(r"rpn\.head\.dyhead_tower\.(\d+)\.(DyConv|offset)\.", key) for key in shapes]
    return Architecture(
        embed_dim=_first(shapes, "backbone.body.patch_embed.proj.weight"),
        depths=tuple(len(blocks[stage]) for stage in sorted(blocks)),
        heads=tuple(heads[stage] for stage in sorted(heads)),
        window=window,
        channels=_first(shapes, "backbone.fpn.fpn_inner2.weight"),
        blocks=len({tower[1] for tower in towers if tower}),
        fusion=any(".b_attn." in key or ".t2i_attn." in key for key in shapes),
    )


def structure(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What the keys of a state dict say of how its GLIP is built: configuration keys and their values.

    MASK_SPECIAL and N_LAYERS leave no key; nor, without early fusion, does what the logits read.
    """
    swint, fuse = "MODEL.SWINT", "MODEL.DYHEAD.FUSE_CONFIG"
    tower, blocks = r"rpn\.head\.dyhead_tower\.\d+", r"backbone\.body\.layers\.\d+\.blocks\.\d+"
    is_v2 = shapes.get("backbone.body.patch_embed.proj.weight", ())[-1:] == (7,)
    fuses_text = _any(shapes, rf"{blocks}\.norm1_text\..*")
    version = [name for name, holds in (("v2", is_v2), ("vl", fuses_text)) if holds]
    found: dict[str, Any] = {
        f"{swint}.VERSION": "_".join(version) or "v1",
        f"{swint}.APE": "backbone.body.absolute_pos_embed" in shapes,
        f"{fuse}.ADD_LINEAR_LAYER": "rpn.tunable_linear.weight" in shapes,
    }
    if is_v2:
        found[f"{swint}.LAYER_SCALE"] = int(_any(shapes, rf"{blocks}\.gamma"))
        found[f"{swint}.OUT_NORM"] = _any(shapes, r"backbone\.body\.norm\d\..*")
    biases = (shape for key, shape in shapes.items() if key.endswith(".attn.t2t_relative_position_bias"))
    if tokens := next(biases, ())[-1:]:
        found["MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN"] = tokens[0]

    one_way, both_ways = _any(shapes, rf"{tower}\.t2i_attn\..*"), _any(shapes, rf"{tower}\.b_attn\..*")
    text_layers = {int(match[1]) for key in shapes if (match := re.match(_TEXT_LAYER, key))}
    found[f"{fuse}.EARLY_FUSE_ON"] = one_way or both_ways or bool(text_layers)
    if found[f"{fuse}.EARLY_FUSE_ON"]:
        found[f"{fuse}.TYPE"] = "MHA-B" if both_ways else "MHA-S" if one_way else "NONE"
        # Each block has three places; the last one's text layer is there only where the logits read it.
        last = 3 * architecture(shapes).blocks - 2
        found[f"{fuse}.USE_FUSED_FEATURES_DOT_PRODUCT"] = last in text_layers
    if one_way:
        found[f"{fuse}.USE_LAYER_SCALE"] = _any(shapes, rf"{tower}\.t2i_attn\.gamma")
    if both_ways:
        found[f"{fuse}.SEPARATE_BIDIRECTIONAL"] = _any(shapes, rf"{tower}\.(b_attn\.)?shrink_lang\..*")
        found[f"{fuse}.DO_LANG_PROJ_OUTSIDE_CHECKPOINT"] = _any(shapes, rf"{tower}\.shrink_lang\..*")
    return found


_TEXT_LAYER = r"rpn\.head\.dyhead_tower\.(\d+)\.attention\."


def _any(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> bool:
    return any(re.fullmatch(pattern, key) for key in shapes)


def _first(shapes: Mapping[str, tuple[int, ...]], key: str) -> int:
    shape = shapes.get(key)
    return shape[0] if shape else 0


def _architecture_of(name: str) -> Architecture:
    values = official_values(name)
    return Architecture(
        embed_dim=values["MODEL.SWINT.EMBED_DIM"],
        depths=values["MODEL.SWINT.DEPTHS"],
        heads=values["MODEL.SWINT.NUM_HEADS"],
        window=values["MODEL.SWINT.WINDOW_SIZE"],
        channels=values["MODEL.DYHEAD.CHANNELS"],
        blocks=values["MODEL.DYHEAD.NUM_CONVS"],
        fusion=values["MODEL.DYHEAD.FUSE_CONFIG.EARLY_FUSE_ON"],
    )


def _words(found: Architecture) -> str:
    if not found.embed_dim and not found.blocks:
        return "they hold neither GLIP's backbone nor its head"
    depths = "/".join(map(str, found.depths)) or "no"
    fusion = "with fusion" if found.fusion else "without fusion"
    return (
        f"Swin of {found.embed_dim} channels, {depths} blocks, window {found.window}; "
        f"head of {found.channels} channels, {found.blocks} blocks, {fusion}"
    )


def _files(config: str) -> tuple[str, ...]:
    return tuple(model.file for model in PUBLISHED if model.config == config)


# What all four official YAMLs say of inference.
COMMON: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "GeneralizedVLRCNN",
    "MODEL.RPN_ARCHITECTURE": "VLDYHEAD",
    "MODEL.RPN_ONLY": True,
    "MODEL.BACKBONE.CONV_BODY": "SWINT-FPN-RETINANET",
    "MODEL.BACKBONE.OUT_CHANNELS": 256,
    "MODEL.RPN.USE_FPN": True,
    "MODEL.RPN.ANCHOR_SIZES": (64, 128, 256, 512, 1024),
    "MODEL.RPN.ANCHOR_STRIDE": (8, 16, 32, 64, 128),
    "MODEL.RPN.ASPECT_RATIOS": (1.0,),
    "MODEL.RPN.SCALES_PER_OCTAVE": 1,
    "MODEL.DYHEAD.CHANNELS": 256,
    "MODEL.DYHEAD.USE_GN": True,
    "MODEL.DYHEAD.USE_DYRELU": True,
    "MODEL.DYHEAD.USE_DFCONV": True,
    "MODEL.DYHEAD.USE_DYFUSE": True,
    "MODEL.DYHEAD.FUSE_CONFIG.TYPE": "MHA-B",
    "MODEL.DYHEAD.FUSE_CONFIG.USE_DOT_PRODUCT_TOKEN_LOSS": True,
    "MODEL.DYHEAD.FUSE_CONFIG.CLAMP_MIN_FOR_UNDERFLOW": True,
    "MODEL.DYHEAD.FUSE_CONFIG.CLAMP_MAX_FOR_OVERFLOW": True,
    "MODEL.DYHEAD.FUSE_CONFIG.CLAMP_BERTATTN_MIN_FOR_UNDERFLOW": True,
    "MODEL.DYHEAD.FUSE_CONFIG.CLAMP_BERTATTN_MAX_FOR_OVERFLOW": True,
    "MODEL.DYHEAD.FUSE_CONFIG.CLAMP_DOT_PRODUCT": True,
    "DATASETS.SEPARATION_TOKENS": ". ",
    "INPUT.PIXEL_MEAN": (103.53, 116.28, 123.675),
    "INPUT.PIXEL_STD": (57.375, 57.12, 58.395),
    "DATALOADER.SIZE_DIVISIBILITY": 32,
}


def _differences(
    fusion: bool, blocks: int, embed_dim: int, third_depth: int, heads: int, window: int
) -> dict[str, Any]:
    return {
        "MODEL.DYHEAD.FUSE_CONFIG.EARLY_FUSE_ON": fusion,
        "MODEL.DYHEAD.FUSE_CONFIG.USE_FUSED_FEATURES_DOT_PRODUCT": fusion,
        "MODEL.DYHEAD.NUM_CONVS": blocks,
        "MODEL.SWINT.EMBED_DIM": embed_dim,
        "MODEL.SWINT.OUT_CHANNELS": tuple(embed_dim * 2**stage for stage in range(4)),
        "MODEL.SWINT.DEPTHS": (2, 2, third_depth, 2),
        "MODEL.SWINT.NUM_HEADS": tuple(heads * 2**stage for stage in range(4)),
        "MODEL.SWINT.WINDOW_SIZE": window,
    }


# (C) before (B): of models with the same shapes, `identify` takes the first.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "glip_A_Swin_T_O365": _differences(False, 6, 96, 6, 3, 7),
    "glip_Swin_T_O365_GoldG": _differences(True, 6, 96, 6, 3, 7),
    "glip_Swin_T_O365": _differences(True, 6, 96, 6, 3, 7),
    "glip_Swin_L": _differences(True, 8, 192, 18, 6, 12),
}
