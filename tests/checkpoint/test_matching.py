"""The report of what a model takes of a weights file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from glip_export.checkpoint import LoadReport, match, read_checkpoint
from glip_export.errors import CheckpointError


def test_match_of_the_tiny_checkpoint(oracle_tiny: Path) -> None:
    checkpoint = read_checkpoint(oracle_tiny / "weights.pth")
    ignored = ("relative_position_index", "cell_anchors", "cls_logits", "position_ids")
    expected = {key: shape for key, shape in checkpoint.shapes.items() if not any(word in key for word in ignored)}
    report = match(checkpoint.state, expected)
    report.raise_if_incomplete(checkpoint.path)
    assert set(report.loaded) == set(expected)
    assert sorted(set(report.ignored.values())) == ["not a parameter", "stored but unused"]
    assert len(report.loaded) + len(report.ignored) == 314
    assert report.ignored["rpn.head.cls_logits.weight"] == "stored but unused"
    assert report.summary().startswith(f"{len(expected)} tensors loaded, {len(report.ignored)} ignored (")
    assert report.summary().endswith("(2 stored but unused, 14 not a parameter), 0 missing, 0 mis-shaped")
    assert json.loads(json.dumps(report.to_json()))["missing"] == {}


def test_reasons_of_ignored_keys() -> None:
    keys = {
        "backbone.body.layers.0.blocks.0.attn.relative_position_index": "not a parameter",
        "rpn.anchor_generator.cell_anchors.4": "not a parameter",
        "language_backbone.body.model.embeddings.position_ids": "not a parameter",
        "rpn.head.cls_logits.bias": "stored but unused",
        "language_backbone.body.model.pooler.dense.weight": "unused",
        "rpn.head.mlm_head.decoder.weight": "for training only",
        "rpn.tunable_linear.weight": "all zero",
        "roi_heads.box.weight": "unknown to this model",
    }
    report = match({key: torch.zeros(1) for key in keys}, {})
    assert report.ignored == keys
    report.raise_if_incomplete("w.pth")


def test_missing_mis_shaped_and_integer_keys() -> None:
    state = {"a": torch.ones(2, 3), "b": torch.ones(4), "c": torch.ones(2, dtype=torch.int8)}
    report = match(state, {"a": (2, 3), "b": (5,), "c": (2,), "d": (1, 2)})
    assert report == LoadReport(("a",), {}, {"d": (1, 2)}, {"b": ((5,), (4,))}, {"c": "int8"})
    with pytest.raises(CheckpointError) as caught:
        report.raise_if_incomplete("w.pth")
    assert str(caught.value) == (
        "w.pth: does not fit the configuration, 1 keys missing, 1 mis-shaped: d (1, 2) is missing; "
        "b should be (5,), is (4,); c holds int8, not floats. Is it another model? Give --config or --bert-config"
    )
    assert report.summary() == "1 tensors loaded, 0 ignored, 1 missing, 1 mis-shaped"


def test_ten_keys_are_listed() -> None:
    with pytest.raises(CheckpointError, match="25 keys missing") as caught:
        match({}, {f"key{i:02}": (1,) for i in range(25)}).raise_if_incomplete("w.pth")
    assert "key09 (1,) is missing; and 15 more" in str(caught.value)
    assert "key10" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "rpn.tunable_linear.weight",
        "rpn.head.dyhead_tower.0.t2i_attn.gamma",
        "rpn.head.dyhead_tower.3.b_attn.attn.v_proj.weight",
        "rpn.head.dyhead_tower.0.shrink_lang.fc.weight",
        "rpn.head.dyhead_tower.16.output.dense.weight",
        "backbone.body.layers.3.blocks.0.attn.qkv_text.weight",
        "backbone.body.layers.0.blocks.0.gamma",
        "backbone.body.absolute_pos_embed",
        "backbone.body.norm2.bias",
    ],
)
def test_what_the_configuration_has_no_place_for_is_not_passed_over(key: str) -> None:
    report = match({"a": torch.ones(1), key: torch.tensor([[0.0, 0.1]])}, {"a": (1,)})
    with pytest.raises(CheckpointError, match=rf"w\.pth: holds {key}, for which .* no place: add X Y$"):
        report.raise_if_incomplete("w.pth", "X Y")
    with pytest.raises(CheckpointError, match=r"no place: is it another model"):
        report.raise_if_incomplete("w.pth")
