"""Whole models from the files that people have: the same weights, however they were saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from glip_export import load_model
from glip_export.bundle import Bundle
from glip_export.checkpoint import read_checkpoint
from glip_export.model.glip import Glip
from glip_export.runtime.torch_session import load_reference


@pytest.fixture
def state(oracle_tiny: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(oracle_tiny / "weights.pth").state


def load(weights: Path, oracle: Path) -> Glip:
    return load_model(weights, oracle / "config.yaml", (), oracle / "bert_config.json")


def same_weights(model: Glip, expected: Glip, dtype: torch.dtype = torch.float32) -> None:
    for name, value in expected.named_parameters():
        assert torch.equal(model.get_parameter(name), value.to(dtype).float())


def sharded(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    places = {key: f"model-0000{number % 3}.safetensors" for number, key in enumerate(state)}
    for name in set(places.values()):
        save_file({key: value.contiguous() for key, value in state.items() if places[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def test_a_training_checkpoint(
    tmp_path: Path, state: dict[str, torch.Tensor], tiny_model: Glip, oracle_tiny: Path
) -> None:
    parameters = list(state)
    content: dict[str, Any] = {
        "model": {f"module.{key}": value for key, value in state.items()},
        "optimizer": {
            "state": {
                number: {"step": 9, "exp_avg": torch.full_like(state[key].float(), float("nan"))}
                for number, key in enumerate(parameters[:20])
            },
            "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": list(range(len(parameters)))}],
        },
        "scheduler": {"milestones": [np.int64(5), 6], "last_epoch": 3, "best": np.float64(0.5)},
        "iteration": np.int64(9),
        "best_ap": np.float32(46.6),
    }
    torch.save(content, tmp_path / "model_0000009.pth")
    same_weights(load(tmp_path / "model_0000009.pth", oracle_tiny), tiny_model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["pth", "safetensors", "sharded"])
def test_half_precision_storage(
    tmp_path: Path, state: dict[str, torch.Tensor], tiny_model: Glip, oracle_tiny: Path, dtype: torch.dtype, kind: str
) -> None:
    halves = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    path = tmp_path / f"w.{kind}"
    if kind == "pth":
        torch.save({"model": halves}, path)
    elif kind == "safetensors":
        save_file({key: value.contiguous() for key, value in halves.items()}, path)
    else:
        sharded(path, halves)
    same_weights(load(path, oracle_tiny), tiny_model, dtype)


def test_a_sharded_models_bundle_finds_it_again(
    tmp_path: Path, state: dict[str, torch.Tensor], tiny_model: Glip, tiny_copy: Path, oracle_tiny: Path
) -> None:
    model = load(sharded(tmp_path / "shards", state), oracle_tiny)
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    manifest["weights"] = {"path": str(model.weights_path), "sha256": model.weights_sha256, "ema": False}
    (tiny_copy / "manifest.json").write_text(json.dumps(manifest))
    same_weights(load_reference(Bundle.open(tiny_copy)), tiny_model)


@pytest.mark.parametrize("classes", [1, 20, 365])
def test_a_classifier_of_any_number_of_classes(
    tmp_path: Path, state: dict[str, torch.Tensor], tiny_model: Glip, oracle_tiny: Path, classes: int
) -> None:
    width = state["rpn.head.cls_logits.weight"].shape[1]
    other = {
        "rpn.head.cls_logits.weight": torch.ones(classes, width, 1, 1),
        "rpn.head.cls_logits.bias": torch.ones(classes),
    }
    torch.save({"model": {**state, **other}}, tmp_path / "w.pth")
    model = load(tmp_path / "w.pth", oracle_tiny)
    same_weights(model, tiny_model)
    assert model.load_report is not None and set(other) <= model.load_report.ignored.keys()
