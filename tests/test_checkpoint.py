"""Weights files: what is read, what is refused and how, and the report of what a model takes of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glip_export.checkpoint import LoadReport, match, read_checkpoint, resolve_weights
from glip_export.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.tensor([1.5, -2.0])}


def save(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def same_state(path: Path) -> None:
    state = read_checkpoint(path).state
    assert state.keys() == STATE.keys()
    for key, value in STATE.items():
        assert state[key].dtype == torch.float32
        assert torch.equal(state[key], value)


def test_the_tiny_checkpoint(oracle_tiny: Path) -> None:
    weights = oracle_tiny / "weights.pth"
    checkpoint = read_checkpoint(weights)
    assert len(checkpoint.state) == 314
    assert sum(tensor.dtype == torch.float32 for tensor in checkpoint.state.values()) == 305
    assert not [key for key in checkpoint.state if key.startswith("module.")]
    assert checkpoint.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert checkpoint.shapes["backbone.body.patch_embed.proj.weight"] == (24, 3, 4, 4)
    assert checkpoint.path == weights


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", ["model", "state_dict", None])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_containers_prefixes_and_formats(tmp_path: Path, legacy: bool, wrap: str | None, prefix: str) -> None:
    state: Any = {prefix + key: value for key, value in STATE.items()}
    content = {wrap: state, "iteration": 7, "optimizer": {"lr": 0.1}} if wrap else state
    same_state(save(tmp_path / "w.pth", content, _use_new_zipfile_serialization=not legacy))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_storage_becomes_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    same_state(save(tmp_path / "w.pth", {"model": {key: value.to(dtype) for key, value in STATE.items()}}))
    save_file({f"module.{key}": value.to(dtype) for key, value in STATE.items()}, tmp_path / "w.safetensors")
    same_state(tmp_path / "w.safetensors")


def test_parameters_views_and_indices(tmp_path: Path) -> None:
    state = {
        "a": torch.nn.Parameter(torch.ones(2)),
        "b": torch.arange(12.0).reshape(3, 4).T[1:],
        "c.relative_position_index": torch.arange(4),
        "d": torch.zeros(0),
        "e": torch.tensor(3.0),
    }
    read = read_checkpoint(save(tmp_path / "w.pth", state)).state
    assert not read["a"].requires_grad
    assert torch.equal(read["b"], state["b"])
    assert read["c.relative_position_index"].dtype == torch.int64
    assert read["d"].shape == (0,) and read["e"].shape == ()


def test_a_prefix_that_not_all_keys_have_stays(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert read_checkpoint(save(tmp_path / "w.pth", state)).state.keys() == state.keys()


# --- what is refused


class Attack:
    """Pickles to a call of os.system that leaves a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 0", "pickle 2", "pickle 4", "nested"])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    target, path = tmp_path / "pwned", tmp_path / "evil.pth"
    attack = Attack(target)
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps({"model": attack}, protocol=int(form[-1])))
        pickle.loads(path.read_bytes())  # the attack is real
        assert target.exists()
        target.unlink()
    elif form == "nested":
        save(path, {"model": dict(STATE), "epoch": attack})
    else:
        save(path, {"model": attack}, _use_new_zipfile_serialization=form == "zip")
    refused(path, r"holds pickled code \(names \w+\.system\): refused; GLIP's official files hold only tensors")
    assert not target.exists()


def test_pickled_modules_and_torchscript_are_refused(tmp_path: Path) -> None:
    refused(save(tmp_path / "w.pth", torch.nn.Linear(2, 2)), r"names torch\.nn\.modules\.linear\.Linear")
    archive = tmp_path / "script.pt"
    with zipfile.ZipFile(archive, "w") as file:  # what torch.jit.save leaves: constants.pkl beside data.pkl
        for name in ("data.pkl", "constants.pkl", "version"):
            file.writestr(f"script/{name}", pickle.dumps({}, protocol=2))
    refused(archive, "TorchScript|damaged")


@pytest.mark.parametrize("legacy", [False, True])
def test_cut_off_files(tmp_path: Path, legacy: bool) -> None:
    buffer = io.BytesIO()
    torch.save({"model": STATE}, buffer, _use_new_zipfile_serialization=not legacy)
    data = buffer.getvalue()
    path = tmp_path / "cut.pth"
    for length in {1, 2, 4, 10, 64, 100, len(data) // 3, len(data) // 2, len(data) - 30, len(data) - 1}:
        path.write_bytes(data[:length])
        refused(path, "damaged")


def test_cut_off_official_sized_file(tmp_path: Path, oracle_tiny: Path) -> None:
    data = (oracle_tiny / "weights.pth").read_bytes()
    for length in (5000, len(data) // 2, len(data) - 100_000):
        path = tmp_path / "cut.pth"
        path.write_bytes(data[:length])
        refused(path, "damaged or cut off weights file.*fetch it again")


def test_cut_off_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    for length in (1, 7, 8, 40, len(data) - 1):
        (tmp_path / "w.safetensors").write_bytes(data[:length])
        refused(tmp_path / "w.safetensors", "not a safetensors file, or a damaged one")


def test_missing_empty_and_directory(tmp_path: Path) -> None:
    refused(tmp_path / "none.pth", "no such weights file")
    refused(tmp_path, "a directory")
    (tmp_path / "empty.pth").touch()
    refused(tmp_path / "empty.pth", "an empty file")
    refused(tmp_path / "empty.pth" / "below", "cannot read")


@pytest.mark.parametrize(
    "data",
    [
        b"hello there\n",
        b"config:\n  a: 1\n",
        b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20,
        b"{}",
        b"\x80\x02",
        b"PK\x03\x04",
    ],
)
def test_other_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    refused(path, "not a weights file|damaged")


def test_another_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as file:
        file.writestr("a.txt", "x")
    refused(tmp_path / "w.pth", "another kind of zip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds a list, not a state dict"),
        (torch.ones(1), "holds a Tensor, not a state dict"),
        ({}, "holds no tensors"),
        ({"model": {}}, "holds no tensors"),
        ({"model": {"a": torch.ones(1), "epoch": 3}}, "'epoch' holds a int"),
        ({"model": {1: torch.ones(1)}}, "1 holds a Tensor"),
        ({"model": "x"}, "'model' holds a str"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "a is complex"),
        ({"a": torch.tensor([1.0, float("nan")])}, "a holds NaN or infinity"),
        ({"a": torch.ones(1), "b": torch.tensor([float("-inf")]).half()}, "b holds NaN or infinity"),
        ({"a": torch.tensor([1e300], dtype=torch.float64)}, r"a holds NaN or infinity \(in fp32\)"),
        ({"a": torch.ones(1).expand(10**15)}, "a claims more values than the file holds"),
        ({"a": torch.eye(2).to_sparse()}, "a is not a dense tensor"),
    ],
)
def test_wrong_contents(tmp_path: Path, content: Any, message: str) -> None:
    refused(save(tmp_path / "w.pth", content), message)


# --- the report


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


def test_prompt_tuned_checkpoints() -> None:
    state = {"a": torch.ones(1), "rpn.tunable_linear.weight": torch.tensor([[0.0, 0.1]])}
    with pytest.raises(CheckpointError, match=r"w\.pth: a prompt-tuned checkpoint .*ADD_LINEAR_LAYER"):
        match(state, {"a": (1,)}).raise_if_incomplete("w.pth")


# --- where weights come from


def test_local_paths(tmp_path: Path, oracle_tiny: Path) -> None:
    weights = oracle_tiny / "weights.pth"
    assert resolve_weights(str(weights)) == weights
    assert resolve_weights(weights) == weights
    with pytest.raises(CheckpointError, match="no such weights file"):
        resolve_weights(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="cannot read"):
        resolve_weights("a\0b")


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://a/b", "hf://a//c", "hf://a/b/", "hf://../b/c", "hf://a/b/../c", "hf://a/b/c d", "hf://a/b/.x"],
)
def test_malformed_addresses(address: str) -> None:
    with pytest.raises(CheckpointError, match="expected hf://OWNER/REPO/FILE"):
        resolve_weights(address)


def fake_hub(monkeypatch: pytest.MonkeyPatch, download: Any) -> None:
    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)


@pytest.mark.parametrize("address", ["hf://GLIPModel/GLIP/glip_large_model.pth", Path("hf://GLIPModel/GLIP/x/y-1.pth")])
def test_hub_addresses(monkeypatch: pytest.MonkeyPatch, address: str | Path) -> None:
    fake_hub(monkeypatch, lambda repo, file: f"/cache/{repo}/{file}")
    expected = str(address).split("GLIPModel/GLIP/")[1]
    assert resolve_weights(address) == Path("/cache/GLIPModel/GLIP") / expected


def test_hub_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repo: str, file: str) -> str:
        raise ConnectionError("no route to host\nmore")

    fake_hub(monkeypatch, offline)
    with pytest.raises(CheckpointError, match=r"hf://a/b/c: cannot be fetched \(no route to host\); check") as caught:
        resolve_weights("hf://a/b/c")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'glip-export\[hub\]'"):
        resolve_weights("hf://a/b/c")


def test_real_hub_when_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="cannot be fetched") as caught:
        resolve_weights("hf://GLIPModel/GLIP/glip_a_tiny_o365.pth")
    assert "\n" not in str(caught.value)
