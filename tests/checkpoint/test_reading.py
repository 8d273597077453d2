"""Weights files: what is read, what is refused and how."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glip_export.checkpoint import read_checkpoint
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
