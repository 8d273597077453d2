"""What training reads of the official configuration: loss weights, the solver, augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from glip_export.config.yacs import check_type, official_keys, parse_overrides, read_yaml
from glip_export.errors import ConfigError

DYHEAD, FUSE, SOLVER = "MODEL.DYHEAD.", "MODEL.DYHEAD.FUSE_CONFIG.", "SOLVER."

# Field of TrainingSettings -> its official key; the field's default is the official one.
KEYS = {
    "top_k": DYHEAD + "TOPK",
    "prior": DYHEAD + "PRIOR_PROB",
    "alpha": FUSE + "TOKEN_ALPHA",
    "gamma": FUSE + "TOKEN_GAMMA",
    "token_weight": FUSE + "DOT_PRODUCT_TOKEN_LOSS_WEIGHT",
    "box_weight": "MODEL.ATSS.REG_LOSS_WEIGHT",
    "learning_rate": SOLVER + "BASE_LR",
    "swin_factor": SOLVER + "BACKBONE_BODY_LR_FACTOR",
    "lowest_rate": SOLVER + "MIN_LR",
    "weight_decay": SOLVER + "WEIGHT_DECAY",
    "warmup_steps": SOLVER + "WARMUP_ITERS",
    "steps": SOLVER + "MAX_ITER",
    "batch_size": SOLVER + "IMS_PER_BATCH",
    "checkpoint_period": SOLVER + "CHECKPOINT_PERIOD",
    "gradient_norm": SOLVER + "CLIP_GRADIENTS.CLIP_VALUE",
    "averaging": SOLVER + "MODEL_EMA",
    "seed": SOLVER + "SEED",
    "flip": "AUGMENT.FLIP_PROB_TRAIN",
    "short_sides": "AUGMENT.MULT_MIN_SIZE_TRAIN",
}


@dataclass(frozen=True)
class TrainingSettings:
    """Losses, solver and augmentation; every field's official key is in `KEYS`."""

    top_k: int = 9  # anchors a level and object that ATSS considers
    prior: float = 0.01  # probability of an object at the start
    alpha: float = 0.25
    gamma: float = 2.0
    token_weight: float = 1.0
    box_weight: float = 2.0
    learning_rate: float = 0.0001
    swin_factor: float = 1.0  # of the learning rate, for Swin
    lowest_rate: float = 1e-6  # where the cosine ends
    weight_decay: float = 0.0001
    warmup_steps: int = 2000
    steps: int = 40000
    batch_size: int = 64
    checkpoint_period: int = 2500  # steps
    gradient_norm: float = 1.0
    averaging: float = 0.999  # of the weights that are evaluated and exported
    seed: int = 0
    flip: float = 0.5
    short_sides: tuple[int, ...] = (480, 560, 640, 720, 800)  # pixels; each picture of a batch takes one


def load_settings(path: Path, overrides: Sequence[str] = ()) -> TrainingSettings:
    """The settings of an official YAML with KEY VALUE overrides.

    Raises ConfigError, naming the key, for a value of the wrong type or out of range.
    """
    given = {**read_yaml(path), **parse_overrides(overrides)}
    chosen: dict[str, Any] = {}
    for field in fields(TrainingSettings):
        key = KEYS[field.name]
        if key in given:
            check_type(official_keys()[key], given[key], str(path))
            chosen[field.name] = given[key]
    settings = TrainingSettings(**chosen)
    for name in ("top_k", "warmup_steps", "steps", "batch_size", "checkpoint_period", "learning_rate"):
        if getattr(settings, name) <= 0:
            raise ConfigError(f"{path}: {KEYS[name]} {getattr(settings, name)} is not supported: expected above 0")
    if not 0 < settings.prior < 1 or not 0 <= settings.averaging < 1 or not settings.short_sides:
        raise ConfigError(f"{path}: PRIOR_PROB, MODEL_EMA or MULT_MIN_SIZE_TRAIN is out of range")
    return settings
