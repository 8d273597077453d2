"""Weights in several safetensors files beside an index."""

from __future__ import annotations

import hashlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glip_export.checkpoint import read_checkpoint, resolve_weights, weights_files, weights_name
from glip_export.checkpoint.sharded import LARGEST_INDEX
from glip_export.errors import CheckpointError

FIRST = {"module.a": torch.arange(6.0).reshape(2, 3).bfloat16(), "module.b": torch.ones(2)}
SECOND = {"module.c": torch.full((3,), 0.5, dtype=torch.float16)}
NAMES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "glip"
    folder.mkdir()
    save_file(FIRST, folder / NAMES[0])
    save_file(SECOND, folder / NAMES[1])
    places = {key: name for name, state in zip(NAMES, (FIRST, SECOND), strict=True) for key in state}
    return written(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": places})


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def places_of(index: Path) -> dict[str, str]:
    return json.loads(index.read_text())["weight_map"]


def refused(path: Path, message: str) -> None:
    for read in (read_checkpoint, lambda path: read_checkpoint(resolve_weights(path))):
        with pytest.raises(CheckpointError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
        assert str(caught.value).startswith(f"{path.parent}")


@pytest.mark.parametrize("by_folder", [False, True])
def test_all_shards_are_one_state(index: Path, by_folder: bool) -> None:
    checkpoint = read_checkpoint(index.parent if by_folder else index)
    assert checkpoint.path == index == resolve_weights(index.parent)
    assert checkpoint.state.keys() == {"a", "b", "c"}
    for key, value in {**FIRST, **SECOND}.items():
        assert checkpoint.state[key.removeprefix("module.")].dtype == torch.float32
        assert torch.equal(checkpoint.state[key.removeprefix("module.")], value.float())
    assert weights_files(index) == [index, *(index.parent / name for name in NAMES)]
    assert weights_name(index) == "model"


def test_the_sha256_covers_every_shard(index: Path) -> None:
    before = read_checkpoint(index).sha256
    digests = [hashlib.sha256((index.parent / name).read_bytes()).digest() for name in NAMES]
    assert before == hashlib.sha256(index.read_bytes() + b"".join(digests)).hexdigest()
    save_file({"module.c": torch.zeros(3)}, index.parent / NAMES[1])
    assert read_checkpoint(index).sha256 != before


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "C:model.safetensors",
        "..",
        "",
        ".hidden.safetensors",
        "model.pth",
        "model.safetensors\n",
        "a\0.safetensors",
    ],
)
def test_shards_are_beside_the_index(index: Path, name: str) -> None:
    save_file(SECOND, index.parent.parent / "model.safetensors")
    written(index, {"weight_map": {**places_of(index), "module.c": name}})
    refused(index, "names the shard .*shards are .safetensors beside the index")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"weight_map": []},
        {"weight_map": {}},
        {"weight_map": {"module.a": 1}},
        {"weight_map": {"module.a": None}},
    ],
)
def test_what_is_no_index(index: Path, content: Any) -> None:
    refused(written(index, content), "not an index: its weight_map")


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"[" * 200_000, b"9" * 5000 + b"]"])
def test_what_is_no_json(index: Path, data: bytes) -> None:
    index.write_bytes(data)
    refused(index, "not JSON")


def test_an_index_too_large_or_of_too_many(index: Path) -> None:
    written(index, {"weight_map": {f"k{number}": f"s{number}.safetensors" for number in range(1001)}})
    refused(index, "names 1001 shards; 1000 at most")
    index.write_bytes(b" " * (LARGEST_INDEX + 1))
    refused(index, "larger than 16 MiB")


def test_shards_that_do_not_fit(index: Path) -> None:
    written(index, {"weight_map": {**places_of(index), "module.d": NAMES[1]}})
    refused(index, "it lacks 'module.d'")
    written(index, {"weight_map": {key: name for key, name in places_of(index).items() if key[-1] not in "ad"}})
    refused(index, "it holds besides 'module.a'")
    (index.parent / NAMES[0]).write_bytes(b"nothing")
    refused(index, "not a safetensors file, or a damaged one")
    (index.parent / NAMES[0]).write_bytes(b"")
    refused(index, "an empty file")
    (index.parent / NAMES[0]).unlink()
    refused(index, "no such shard, but model.safetensors.index.json names it")


def test_folders(index: Path, tmp_path: Path) -> None:
    refused(tmp_path, "a directory, not a weights file, without a sharded model's index")
    written(index.parent / "other.safetensors.index.json", {})
    refused(index.parent, "which holds several indices")


def test_shards_are_fetched_with_their_index(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    hub = types.ModuleType("huggingface_hub")

    def download(repo: str, file: str) -> str:
        asked.append(f"{repo}:{file}")
        return str(index.parent / Path(file).name)

    hub.hf_hub_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert resolve_weights(f"hf://me/glip/tiny/{index.name}") == index
    assert asked == [f"me/glip:tiny/{name}" for name in (index.name, *NAMES)]
    written(index, {"weight_map": {"module.a": "../x.safetensors"}})
    with pytest.raises(CheckpointError, match="beside the index"):
        resolve_weights(f"hf://me/glip/{index.name}")
    assert not asked[4:]
