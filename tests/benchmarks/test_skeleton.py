"""A bundle without its weights, filled again."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch

from glip_export import Bundle
from glip_export.model.glip import Glip

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

import full_size
import skeleton
from context import Context


def test_filled_with_the_same_weights_it_is_the_same_to_the_byte(
    tiny_bundle: Path, tiny_model: Glip, tmp_path: Path
) -> None:
    skeleton.strip(tiny_bundle, tiny_model, tmp_path / "skeleton")
    recipe = json.loads((tmp_path / "skeleton" / skeleton.RECIPE).read_text())
    kept = sum(entry["bytes"] for entries in recipe["files"].values() for entry in entries if "kept" in entry)
    assert kept < 0.01 * sum(recipe["sizes"].values())
    skeleton.fill(tmp_path / "skeleton", tiny_model, tmp_path / "filled")
    for file in Bundle.open(tiny_bundle).files:
        assert (tmp_path / "filled" / file).read_bytes() == (tiny_bundle / file).read_bytes(), file
    assert Bundle.open(tmp_path / "filled").files == Bundle.open(tiny_bundle).files


def test_other_weights_do_not_fit(tiny_bundle: Path, tiny_model: Glip, tmp_path: Path) -> None:
    assert not skeleton.fits(tmp_path / "skeleton", tiny_model)
    skeleton.strip(tiny_bundle, tiny_model, tmp_path / "skeleton")
    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        other.fusion_head.bbox_pred.bias.add_(1)
    assert skeleton.fits(tmp_path / "skeleton", tiny_model) and not skeleton.fits(tmp_path / "skeleton", other)


def test_a_parcel_spares_the_export(
    tiny_bundle: Path, tiny_model: Glip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_export(*arguments: object) -> None:
        raise AssertionError("exported")

    monkeypatch.setattr("glip_export.export_onnx", no_export)
    monkeypatch.setattr(full_size, "glip_model", lambda context: tiny_model)
    context = Context(tmp_path / "out", rehearsal=True, parcel=tmp_path / "parcel")
    skeleton.strip(tiny_bundle, tiny_model, tmp_path / "parcel" / "rehearsal-skeleton")
    assert full_size.glip_bundle(context).files == Bundle.open(tiny_bundle).files
