"""The training keys of the official configuration."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from glip_export.config import load_config
from glip_export.config.yacs import official_keys
from glip_export.errors import ConfigError
from glip_export.training.settings import KEYS, TrainingSettings, load_settings

DEMO = Path(__file__).parents[2] / "demo"


def test_every_field_has_an_official_key() -> None:
    assert set(KEYS) == {field.name for field in fields(TrainingSettings)}
    assert set(KEYS.values()) <= official_keys().keys()


def test_an_official_dump_gives_the_official_values(oracle_full_dump: Path) -> None:
    settings = load_settings(oracle_full_dump / "config.yaml")
    assert (settings.top_k, settings.alpha, settings.gamma) == (9, 0.25, 2.0)
    assert (settings.token_weight, settings.box_weight, settings.prior) == (1.0, 2.0, 0.01)
    assert (settings.learning_rate, settings.averaging, settings.steps) == (0.0001, 0.999, 40000)
    assert settings.short_sides == (480, 560, 640, 720, 800)


def test_overrides_come_last() -> None:
    settings = load_settings(DEMO / "glip_demo.yaml", ("SOLVER.MAX_ITER", "12", "MODEL.ATSS.REG_LOSS_WEIGHT", "3.5"))
    assert (settings.steps, settings.box_weight, settings.batch_size) == (12, 3.5, 8)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", "fast"),
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("SOLVER.MODEL_EMA", "1.0"),
        ("SOLVER.NO_SUCH", "1"),
        ("AUGMENT.MULT_MIN_SIZE_TRAIN", "()"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        load_settings(DEMO / "glip_demo.yaml", (key, value))


def test_the_demo_configuration_is_small_enough_for_the_repository() -> None:
    from glip_export.model.glip import Glip

    config = load_config(DEMO / "glip_demo.yaml", (), DEMO / "bert_config.json")
    parameters = sum(value.numel() for value in Glip(config).parameters())
    assert parameters > 3e6 and 2 * parameters + 100_000 < 12e6  # bytes in fp16, and the file's header
