"""mmdetection's GLIP checkpoints: every name of its own models mapped, and the same model from either form."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from compact_oracle import OracleCase, draw_weight, positions
from random_checkpoint import PUBLISHED
from torch.nn import functional as F

from glip_export.checkpoint import match, read_checkpoint
from glip_export.checkpoint.mmdetection import (
    OFFICIAL_ONLY,
    from_official,
    is_mmdetection,
    mmdetection_name,
    official_name,
    to_official,
)
from glip_export.config.published import identify
from glip_export.errors import CheckpointError
from glip_export.image import preprocess
from glip_export.model.glip import Glip, load_model
from glip_export.model.glip import official_name as official_name_of
from glip_export.model.swin import PatchMerging

DATA = Path(__file__).parent.parent / "data"
MODELS = {"glip_t_a": "glip_A_Swin_T_O365", "glip_t": "glip_Swin_T_O365_GoldG", "glip_l": "glip_Swin_L"}
BUFFERS = ("relative_position_index", "position_ids")  # of either maker; nothing reads them


def theirs(name: str) -> dict[str, torch.Tensor]:
    """mmdetection's own model's state, of which only keys and shapes are known."""
    shapes = json.loads((DATA / "mmdet" / f"{name}.json").read_text())
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize(("name", "config"), MODELS.items())
def test_every_name_has_its_place(name: str, config: str) -> None:
    with torch.device("meta"):
        model = Glip(PUBLISHED[config])
    expected = {official_name_of(key): tuple(value.shape) for key, value in model.named_parameters()}
    state = to_official(theirs(name))
    assert len(state) == len(theirs(name))
    report = match(state, expected)
    assert (report.missing, report.mis_shaped) == ({}, {})
    assert {key.rsplit(".", 1)[1] for key in report.ignored} == {"relative_position_index"}
    assert len(report.loaded) == len(expected)
    assert identify({key: tuple(value.shape) for key, value in state.items()}) == config


def test_the_official_keys_that_mmdetection_lacks_are_those_named() -> None:
    listed = (DATA / "oracle" / "glip_t_checkpoint_keys.txt").read_text().splitlines()
    official = {line.split()[0].removeprefix("module.") for line in listed}
    here = {official_name(key) for key in theirs("glip_t")}
    assert here < official
    left = {key for key in official - here if not key.endswith(BUFFERS)}
    assert len(left) == 7
    assert all(any(re.fullmatch(pattern, key) for pattern, _ in OFFICIAL_ONLY) for key in left)


@pytest.mark.parametrize("name", MODELS)
def test_their_form_of_an_official_state_has_their_shapes(name: str) -> None:
    back = from_official(to_official(theirs(name)))
    assert {key: value.shape for key, value in back.items()} == {
        key: value.shape for key, value in theirs(name).items()
    }


def test_there_and_back_is_the_identity(oracle_tiny: Path) -> None:
    official = read_checkpoint(oracle_tiny / "weights.pth").state
    state = from_official(official)
    assert is_mmdetection(state)
    assert not is_mmdetection(official)
    assert not state.keys() & official.keys()
    back = to_official(state)
    left = {key for key in official if any(re.fullmatch(pattern, key) for pattern, _ in OFFICIAL_ONLY)}
    assert back.keys() == official.keys() - left
    assert all(torch.equal(back[key], official[key]) and back[key].dtype == official[key].dtype for key in back)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_the_same_model_from_either_form(
    oracle_tiny: Path, tiny_model: Glip, tmp_path: Path, prefix: str, wrapped: bool
) -> None:
    state = from_official(read_checkpoint(oracle_tiny / "weights.pth").state)
    state = {prefix + key: value for key, value in state.items()}
    content = {"meta": {"epoch": 12, "cfg": "model = dict()"}, "state_dict": state, "message_hub": {}}
    torch.save(content if wrapped else state, tmp_path / "epoch_12.pth")
    model = load_model(
        tmp_path / "epoch_12.pth", oracle_tiny / "config.yaml", bert_config=oracle_tiny / "bert_config.json"
    )
    expected = tiny_model.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert model.load_report is not None
    assert {*model.load_report.ignored.values()} == {"not a parameter"}


def test_every_number_of_their_own_model(tmp_path: Path) -> None:
    """Weights drawn by mmdetection's keys, run by mmdetection's code (tests/data/mmdet/README.md) and by ours."""
    case = OracleCase("tiny")
    stats = json.loads((case.folder / "stats.json").read_text())
    state = {}
    for official, (shape, mean, std) in stats.items():
        key = official.removeprefix("module.")
        if not any(re.fullmatch(pattern, key) for pattern, _ in OFFICIAL_ONLY):
            drawn = torch.from_numpy(draw_weight(mmdetection_name(key), shape, mean, std))
            state[mmdetection_name(key)] = drawn.reshape(()) if ".scales." in key else drawn
    torch.save({"state_dict": state}, tmp_path / "drawn.pth")
    model = load_model(tmp_path / "drawn.pth", case.config, bert_config=case.bert_config)

    ids = torch.tensor([case.prompt["input_ids"]] * 2)
    mask = torch.ones_like(ids)
    text = model.text_encoder(ids, mask)
    pyramid = model.vision_backbone(torch.from_numpy(preprocess(case.pictures(), model.config.image).images))
    ours = {"hidden": text} | {f"P{number}": level for number, level in enumerate(pyramid, 3)}
    for number, level in enumerate(model.fusion_head.predict(pyramid, text, mask), 3):
        ours |= {f"{field}_P{number}": value for field, value in level._asdict().items()}

    stored = np.load(DATA / "mmdet" / "tiny.npz")
    assert {name.split("@")[0] for name in stored} == ours.keys()
    for name, tensor in ours.items():
        assert tuple(stored[f"{name}@shape"]) == tensor.shape, name
        samples = tensor.numpy().reshape(-1)[positions(name, tensor.numel())]
        assert np.abs(samples - stored[f"{name}@val"]).max() < 1e-4 * stored[f"{name}@rms"], name


def test_patch_merging_is_theirs() -> None:
    """Their layer takes the 2x2 neighbours by nn.Unfold; with the mapped weights ours gives the same."""
    torch.manual_seed(0)
    norm, bias, reduction = torch.randn(24), torch.randn(24), torch.randn(12, 24)
    key = "backbone.stages.0.downsample."
    state = to_official(
        {f"{key}norm.weight": norm, f"{key}norm.bias": bias, f"{key}reduction.weight": reduction},
    )
    ours = PatchMerging(6)
    ours.load_state_dict({name.removeprefix("backbone.body.layers.0.downsample."): t for name, t in state.items()})
    x = torch.randn(2, 8, 10, 6)
    merged = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)  # (B, H/2 * W/2, 4C)
    expected = F.linear(F.layer_norm(merged, (24,), norm, bias), reduction)
    torch.testing.assert_close(ours(x).flatten(1, 2), expected, rtol=1e-5, atol=1e-5)


def test_the_box_scales_of_either_shape() -> None:
    """The converted files of its model zoo kept the official shape, what mmdetection trains has none."""
    key = "bbox_head.head.scales.2.scale"
    for value in (torch.tensor(3.0), torch.tensor([3.0])):
        (scale,) = to_official({key: value}).values()
        assert scale.tolist() == [3.0]


def test_another_detector_of_mmdetection_is_left_alone() -> None:
    """Grounding DINO has the same backbone and language model."""
    grounding_dino = [key for key in theirs("glip_t") if not key.startswith("bbox_head.")]
    assert not is_mmdetection([*grounding_dino, "bbox_head.cls_branches.0.bias", "decoder.norm.weight"])
    assert not is_mmdetection([])


def test_what_glip_has_no_place_for_is_told(oracle_tiny: Path, tmp_path: Path) -> None:
    state = from_official(read_checkpoint(oracle_tiny / "weights.pth").state)
    state["bbox_head.head.extra.weight"] = state["dn_query_generator.label_embedding.weight"] = torch.ones(2)
    torch.save({"state_dict": state}, tmp_path / "more.pth")
    config = oracle_tiny / "config.yaml"
    model = load_model(tmp_path / "more.pth", config, bert_config=oracle_tiny / "bert_config.json")
    assert model.load_report is not None
    unknown = {key for key, why in model.load_report.ignored.items() if why == "unknown to this model"}
    assert unknown == {"rpn.head.extra.weight", "dn_query_generator.label_embedding.weight"}


def test_a_merging_of_another_size_is_refused_by_its_shape(oracle_tiny: Path, tmp_path: Path) -> None:
    state = from_official(read_checkpoint(oracle_tiny / "weights.pth").state)
    state["backbone.stages.0.downsample.norm.weight"] = torch.ones(7)
    state["bbox_head.head.scales.0.scale"] = torch.ones(2)
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="2 mis-shaped"):
        load_model(tmp_path / "other.pth", oracle_tiny / "config.yaml", bert_config=oracle_tiny / "bert_config.json")


@pytest.mark.parametrize("zipped", [True, False])
def test_its_pickled_code_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    """Configurations can stand in `meta`; they are classes of mmengine's, not tensors."""
    module = ModuleType("mmengine.config.config")
    kind = type("ConfigDict", (dict,), {"__module__": module.__name__})
    monkeypatch.setattr(module, "ConfigDict", kind, raising=False)
    for name in ("mmengine", "mmengine.config", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    path, content = tmp_path / "epoch_12.pth", {"meta": {"cfg": kind(a=1)}, "state_dict": {"a": torch.ones(1)}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r"mmengine\.config\.config\.ConfigDict\): refused; .*\['state_dict'\]"
    ) as told:
        read_checkpoint(path)
    assert "\n" not in str(told.value)
