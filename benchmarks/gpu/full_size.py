"""The GLIP that is timed: GLIP-T (C) with weights drawn from a seed, and its bundle, made once a run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from context import Context

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.config import GlipConfig
    from glip_export.model.glip import Glip

FULL, SMALL = (800, 1216), (160, 224)  # H, W
SKELETON = "full-size-skeleton"  # in the parcel


def picture_size(context: Context) -> tuple[int, int]:
    """H, W of the timed pictures."""
    return SMALL if context.rehearsal else FULL


def config_of(context: Context) -> GlipConfig:
    """GLIP-T (C)'s; in a rehearsal of its form, with everything narrow."""
    from random_checkpoint import PUBLISHED

    from glip_export.config import BertConfig, DetectionConfig, HeadConfig, ImageConfig, SwinConfig, TextConfig

    if not context.rehearsal:
        return PUBLISHED["glip_Swin_T_O365_GoldG"]
    bert = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    return replace(
        PUBLISHED["glip_Swin_T_O365_GoldG"],
        image=ImageConfig(min_size=SMALL[0], max_size=SMALL[1]),
        text=TextConfig(bert),
        swin=SwinConfig(embed_dim=12, depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4), window_size=7),
        head=HeadConfig(channels=32, num_convs=1),
        detection=DetectionConfig(pre_nms_top_n=60, detections_per_image=40),
    )


def glip_model(context: Context) -> Glip:
    """On the CPU; the same weights each time."""
    from random_checkpoint import random_model

    return random_model(config_of(context))


def glip_bundle(context: Context) -> Bundle:
    """Its bundle in the output folder, made by the first step that asks for it."""
    import skeleton

    return skeleton.made(*_places(context), partial(glip_model, context))


def prepare(context: Context) -> None:
    """Writes the skeleton into the parcel, where there is time for the export."""
    import skeleton

    skeleton.keep(*_places(context), partial(glip_model, context))


def _places(context: Context) -> tuple[Path, Path]:
    """Where the bundle is, and where its skeleton."""
    return context.output / "full-size", context.parcel / ("rehearsal-skeleton" if context.rehearsal else SKELETON)
