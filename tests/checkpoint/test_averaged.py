"""Averaged (EMA) weights: taken when asked for, and again wherever a bundle's weights are read once more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from glip_export import load_model
from glip_export.bundle import Bundle
from glip_export.checkpoint import read_checkpoint
from glip_export.errors import CheckpointError
from glip_export.runtime.torch_session import load_reference

TRAINED = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.tensor([1.5, -2.0])}
AVERAGED = {key: value + 1 for key, value in TRAINED.items()}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_what_training_saved_beside_the_model(tmp_path: Path, prefix: str) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(6)}}, "param_groups": [{"lr": 1e-4, "params": [0, 1]}]}
    content = {"model": under("module.", TRAINED), "model_ema": under(prefix, AVERAGED)}
    path = saved(tmp_path / "model_final.pth", {**content, "optimizer": optimizer, "iteration": 7})
    trained, averaged = read_checkpoint(path), read_checkpoint(path, ema=True)
    assert (trained.ema, averaged.ema) == (False, True)
    assert trained.sha256 == averaged.sha256
    for checkpoint, expected in ((trained, TRAINED), (averaged, AVERAGED)):
        assert checkpoint.state.keys() == expected.keys()
        assert all(torch.equal(checkpoint.state[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("content", "ema", "message"),
    [
        ({"model": TRAINED}, True, "holds no averaged weights.*leave out --ema"),
        (TRAINED, True, "holds no averaged weights"),
        ([1], True, "holds no averaged weights"),
        ({"model": TRAINED, "model_ema": None}, True, "holds no averaged weights"),
        ({"model": TRAINED, "model_ema": {}}, True, "holds no tensors"),
        ({"state_dict": TRAINED, "ema_state_dict": TRAINED}, True, "state_dict is the average already; leave out"),
        ({"model_ema": TRAINED}, False, "averaged weights only.*give --ema"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: Any, ema: bool, message: str) -> None:
    path = saved(tmp_path / "w.pth", content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path, ema)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_bundle_remembers_which_weights_it_holds(tmp_path: Path, tiny_copy: Path, oracle_tiny: Path) -> None:
    state = read_checkpoint(oracle_tiny / "weights.pth").state
    name = "rpn.head.dot_product_projection_text.weight"
    averaged = {**state, name: state[name] * 0.5}
    path = saved(tmp_path / "model_final.pth", {"model": state, "model_ema": averaged})
    parts = (oracle_tiny / "config.yaml", (), oracle_tiny / "bert_config.json")
    model = load_model(path, *parts, ema=True)
    assert model.weights_ema and not load_model(path, *parts).weights_ema
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    assert manifest["weights"]["ema"] is False
    manifest["weights"] = {"path": str(path), "sha256": model.weights_sha256, "ema": True}
    (tiny_copy / "manifest.json").write_text(json.dumps(manifest))
    for ema in (True, False):
        manifest["weights"]["ema"] = ema
        (tiny_copy / "manifest.json").write_text(json.dumps(manifest))
        reference = load_reference(Bundle.open(tiny_copy))
        assert reference.weights_ema == ema
        expected = (averaged if ema else state)[name]
        assert torch.equal(reference.fusion_head.dot_product_projection_text.weight, expected)
