"""Which of a state dict's tensors a model takes, and the report of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from glip_export.errors import CheckpointError

Shape = tuple[int, ...]

# Keys of a checkpoint that no module of ours takes, and why.
IGNORED = (
    (r".*\.relative_position_index", "not a parameter"),
    (r"rpn\.anchor_generator\.cell_anchors\.\d+", "not a parameter"),
    (r".*\.embeddings\.(position_ids|token_type_ids)", "not a parameter"),
    (r"rpn\.head\.cls_logits\..*", "stored but unused"),
    (r"language_backbone\.body\.model\.pooler\..*", "unused"),
    (r"rpn\.head\.mlm_head\..*", "for training only"),
    (r"rpn\.tunable_linear\.weight", "all zero"),
)
PROMPT_TABLE = "rpn.tunable_linear.weight"  # of prompt tuning, zero where nothing was tuned

# Keys that a model without a place for them would be wrong without, and the configuration that gives them one.
_FUSE, _TOWER = "MODEL.DYHEAD.FUSE_CONFIG", r"rpn\.head\.dyhead_tower\.\d+"
_BLOCKS, _SEPARATE = r"backbone\.body\.layers\.\d+\.blocks\.\d+", f"{_FUSE}.SEPARATE_BIDIRECTIONAL True"
NEEDED = (
    (r"rpn\.tunable_linear\.weight", f"{_FUSE}.ADD_LINEAR_LAYER True"),
    (rf"{_TOWER}\.t2i_attn\.gamma", f"{_FUSE}.USE_LAYER_SCALE True"),
    (rf"{_TOWER}\.t2i_attn\..*", f"{_FUSE}.TYPE MHA-S"),
    (rf"{_TOWER}\.b_attn\.shrink_lang\..*", _SEPARATE),
    (
        rf"{_TOWER}\.shrink_lang\..*",
        f"{_SEPARATE} {_FUSE}.DO_LANG_PROJ_OUTSIDE_CHECKPOINT True",
    ),
    (rf"{_BLOCKS}\.(norm1_text|attn\.qkv_text)\..*", "MODEL.SWINT.VERSION vl"),
    (rf"{_BLOCKS}\.gamma", "MODEL.SWINT.VERSION v2 MODEL.SWINT.LAYER_SCALE 1"),
    (r"backbone\.body\.absolute_pos_embed", "MODEL.SWINT.APE True"),
)


@dataclass(frozen=True)
class LoadReport:
    """What of a checkpoint a model takes, and what it lacks."""

    loaded: tuple[str, ...]
    ignored: dict[str, str]  # key -> why
    missing: dict[str, Shape]  # key -> expected shape
    mis_shaped: dict[str, tuple[Shape, Shape]]  # key -> expected, got
    not_floating: dict[str, str]  # key -> its dtype
    without_place: dict[str, str] = field(default_factory=dict)  # key -> the configuration that it needs

    def raise_if_incomplete(self, path: str | Path) -> None:
        """Raises CheckpointError, listing the first ten keys that are missing, mis-shaped or not floating."""
        for key, words in self.without_place.items():
            raise CheckpointError(f"{path}: holds {key}, for which the configuration has no place: add {words}")
        problems = [f"{key} {shape} is missing" for key, shape in self.missing.items()]
        problems += [f"{key} should be {shape}, is {got}" for key, (shape, got) in self.mis_shaped.items()]
        problems += [f"{key} holds {dtype}, not floats" for key, dtype in self.not_floating.items()]
        if problems:
            more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
            raise CheckpointError(
                f"{path}: does not fit the configuration, {len(self.missing)} keys missing, {len(self.mis_shaped)} "
                f"mis-shaped: {'; '.join(problems[:10])}{more}. Is it another model? Give --config or --bert-config"
            )

    def summary(self) -> str:
        """One line: `500 tensors loaded, 9 ignored (8 not a parameter, 1 unused), 0 missing, 0 mis-shaped`."""
        reasons: dict[str, int] = {}
        for why in self.ignored.values():
            reasons[why] = reasons.get(why, 0) + 1
        detail = f" ({', '.join(f'{count} {why}' for why, count in reasons.items())})" if reasons else ""
        return (
            f"{len(self.loaded)} tensors loaded, {len(self.ignored)} ignored{detail}, "
            f"{len(self.missing)} missing, {len(self.mis_shaped)} mis-shaped"
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)


def match(state: Mapping[str, torch.Tensor], expected: Mapping[str, Shape]) -> LoadReport:
    """Compares a state dict with the parameters a model expects (key -> shape); raises nothing."""
    loaded, mis_shaped, not_floating = [], {}, {}
    left = [key for key in state if key not in expected]
    for key, shape in expected.items():
        if key not in state:
            continue
        tensor = state[key]
        if tuple(tensor.shape) != tuple(shape):
            mis_shaped[key] = (tuple(shape), tuple(tensor.shape))
        elif not tensor.is_floating_point():
            not_floating[key] = str(tensor.dtype).removeprefix("torch.")
        else:
            loaded.append(key)
    return LoadReport(
        loaded=tuple(loaded),
        ignored={key: _why_ignored(key) for key in left},
        missing={key: tuple(shape) for key, shape in expected.items() if key not in state},
        mis_shaped=mis_shaped,
        not_floating=not_floating,
        without_place={key: words for key in left if (words := _needed(key)) and state[key].any()},
    )


def is_prompt_tuned(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the state dict holds a table of prompt tuning that changes anything."""
    return PROMPT_TABLE in state and bool(state[PROMPT_TABLE].any())


def _why_ignored(key: str) -> str:
    return next((why for pattern, why in IGNORED if re.fullmatch(pattern, key)), "unknown to this model")


def _needed(key: str) -> str:
    return next((words for pattern, words in NEEDED if re.fullmatch(pattern, key)), "")
