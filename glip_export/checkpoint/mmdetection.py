"""GLIP's weights as mmdetection names them (mmdet 3.x: GLIP with ATSSVLFusionHead), to the official names and back.

The architecture is the same, so every parameter has a counterpart; what differs beside the names: patch merging's four
neighbours lie in another order, and the levels' box scales have no axis.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

# What official files hold and mmdetection's model has no place for, and why.
OFFICIAL_ONLY = (
    (r"rpn\.head\.cls_logits\..*", "the classifier of a fixed set of classes, which GLIP stores and does not use"),
    (r"rpn\.anchor_generator\.cell_anchors\.\d+", "anchors, which mmdetection computes"),
    (r"language_backbone\.body\.model\.pooler\..*", "mmdetection builds BERT without its pooler"),
    (r"rpn\.head\.mlm_head\..*", "for training only; mmdetection has no such loss"),
    (r"rpn\.tunable_linear\.weight", "prompt tuning, which mmdetection lacks"),
)
# mmdetection's model has nothing that official files lack. Files of either maker hold two buffers that nothing reads:
# Swin's `relative_position_index`, and BERT's `embeddings.position_ids` where transformers was older than 4.31.

# Official and mmdetection's beginnings. FPN: inner2..4 and layer2..4 serve C3..C5.
_BEGINNINGS = (
    ("backbone.body.", "backbone."),
    ("backbone.fpn.fpn_inner2.", "neck.lateral_convs.0.conv."),
    ("backbone.fpn.fpn_inner3.", "neck.lateral_convs.1.conv."),
    ("backbone.fpn.fpn_inner4.", "neck.lateral_convs.2.conv."),
    ("backbone.fpn.fpn_layer2.", "neck.fpn_convs.0.conv."),
    ("backbone.fpn.fpn_layer3.", "neck.fpn_convs.1.conv."),
    ("backbone.fpn.fpn_layer4.", "neck.fpn_convs.2.conv."),
    ("backbone.fpn.top_blocks.p6.", "neck.fpn_convs.3.conv."),
    ("backbone.fpn.top_blocks.p7.", "neck.fpn_convs.4.conv."),
    ("language_backbone.", "language_model.language_backbone."),
    ("rpn.head.", "bbox_head.head."),
)
# Within these: what stands between two dots. Only Swin's keys and the tower's hold any of it.
_PARTS = {
    "backbone.body.": (
        (".patch_embed.proj.", ".patch_embed.projection."),
        (".layers.", ".stages."),
        (".attn.", ".attn.w_msa."),
        (".mlp.fc1.", ".ffn.layers.0.0."),
        (".mlp.fc2.", ".ffn.layers.1."),
    ),
    "rpn.head.": ((".DyConv.", ".dyconvs."), (".AttnConv.", ".attnconv.")),
}
_PATCH_MERGING = re.compile(r"backbone\.body\.layers\.\d+\.downsample\.(norm|reduction)\.\w+")
_BOX_SCALE = re.compile(r"rpn\.head\.scales\.\d+\.scale")


def is_mmdetection(keys: Iterable[str]) -> bool:
    """Whether these are the keys of mmdetection's GLIP (without `module.`), and not of another of its detectors."""
    keys = tuple(keys)
    return all(
        any(key.startswith(beginning) for key in keys)
        for beginning in ("backbone.stages.", "bbox_head.head.dyhead_tower.", "language_model.language_backbone.")
    )


def to_official(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """mmdetection's state (keys without `module.`) under the official names, in the official layout.

    What GLIP has no place for keeps its name, for the loading to report.
    """
    official = {}
    for key, tensor in state.items():
        name = official_name(key)
        if _PATCH_MERGING.fullmatch(name) and _is_of_four(tensor):
            # From nn.Unfold's order, channel, row, column of the 2x2 neighbours, to column, row, channel.
            tensor = tensor.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)
        elif _BOX_SCALE.fullmatch(name) and tensor.numel() == 1:
            tensor = tensor.reshape(1)
        official[name] = tensor
    return official


def from_official(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An official state (keys without `module.`) as mmdetection's model takes it, without what is OFFICIAL_ONLY."""
    theirs = {}
    for name, tensor in state.items():
        if any(re.fullmatch(pattern, name) for pattern, _ in OFFICIAL_ONLY):
            continue
        if _PATCH_MERGING.fullmatch(name) and _is_of_four(tensor):
            tensor = tensor.unflatten(-1, (2, 2, -1)).transpose(-3, -1).flatten(-3)
        elif _BOX_SCALE.fullmatch(name) and tensor.numel() == 1:
            tensor = tensor.reshape(())
        theirs[mmdetection_name(name)] = tensor
    return theirs


def official_name(key: str) -> str:
    """mmdetection's key under its official name; a foreign one as it is."""
    return _renamed(key, old=1, new=0)


def mmdetection_name(key: str) -> str:
    """An official key as mmdetection names it; a foreign one as it is."""
    return _renamed(key, old=0, new=1)


def _renamed(key: str, old: int, new: int) -> str:
    """`key` of one side (0: official, 1: mmdetection) as the other side names it."""
    for pair in _BEGINNINGS:
        if key.startswith(pair[old]):
            rest = "." + key.removeprefix(pair[old])
            for part in _PARTS.get(pair[0], ()):
                rest = rest.replace(part[old], part[new])
            return pair[new] + rest[1:]
    return key


def _is_of_four(tensor: torch.Tensor) -> bool:
    return tensor.ndim > 0 and tensor.shape[-1] > 0 and tensor.shape[-1] % 4 == 0
