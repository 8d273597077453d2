"""Which of a state dict's tensors a model takes, and the report of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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

# Keys that a model without a place for them would be wrong without: its configuration is another structure's.
STRUCTURAL = (
    r"rpn\.tunable_linear\.weight",
    r"rpn\.head\.dyhead_tower\.\d+\.(b_attn|t2i_attn|shrink_lang|attention|intermediate|output)\..*",
    r"backbone\.body\.(norm[1-3]\..*|absolute_pos_embed)",
    r"backbone\.body\.layers\.\d+\.blocks\.\d+\.(gamma.*|.*_text\..*|attn\.[it]2t_relative_position_bias)",
)


@dataclass(frozen=True)
class LoadReport:
    """What of a checkpoint a model takes, and what it lacks."""

    loaded: tuple[str, ...]
    ignored: dict[str, str]  # key -> why
    missing: dict[str, Shape]  # key -> expected shape
    mis_shaped: dict[str, tuple[Shape, Shape]]  # key -> expected, got
    not_floating: dict[str, str]  # key -> its dtype
    without_place: tuple[str, ...] = ()  # STRUCTURAL keys that the model has not

    def raise_if_incomplete(self, path: str | Path, hint: str = "") -> None:
        """Raises CheckpointError for keys without a place, or for the first ten missing, mis-shaped or not floating.

        hint: what to add to the configuration, KEY VALUE pairs.
        """
        if self.without_place:
            raise CheckpointError(
                f"{path}: holds {self.without_place[0]}, for which the configuration has no place: "
                f"{f'add {hint}' if hint else 'is it another model? Give its --config'}"
            )
        problems = [f"{key} {shape} is missing" for key, shape in self.missing.items()]
        problems += [f"{key} should be {shape}, is {got}" for key, (shape, got) in self.mis_shaped.items()]
        problems += [f"{key} holds {dtype}, not floats" for key, dtype in self.not_floating.items()]
        if problems:
            more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
            advice = f"Add {hint}" if hint else "Is it another model? Give --config or --bert-config"
            raise CheckpointError(
                f"{path}: does not fit the configuration, {len(self.missing)} keys missing, {len(self.mis_shaped)} "
                f"mis-shaped: {'; '.join(problems[:10])}{more}. {advice}"
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
        without_place=tuple(key for key in left if _is_structural(key) and bool(state[key].any())),
    )


def is_prompt_tuned(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the state dict holds a table of prompt tuning that changes anything."""
    return PROMPT_TABLE in state and bool(state[PROMPT_TABLE].any())


def _why_ignored(key: str) -> str:
    return next((why for pattern, why in IGNORED if re.fullmatch(pattern, key)), "unknown to this model")


def _is_structural(key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in STRUCTURAL)
