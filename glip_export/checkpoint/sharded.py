"""Safetensors: one file, or several that an index beside them lists."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glip_export.errors import CheckpointError

if TYPE_CHECKING:
    import torch

INDEX = ".safetensors.index.json"  # how an index's name ends
LARGEST_INDEX = 16 << 20  # bytes; GLIP-L's thousand keys are a hundredth of it
MOST_SHARDS = 1000


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors by key, on the CPU; raises CheckpointError if it is not one."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path}: needs safetensors: pip install 'glip-export[export]'") from error
    try:
        return load_file(path, device="cpu")
    except Exception as error:  # SafetensorError, but also what torch says of an unknown dtype
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: not a safetensors file, or a damaged one ({reason}); fetch it again") from error


def is_index(path: Path) -> bool:
    """Whether a path is by its name the index of a sharded file."""
    return path.name.endswith(INDEX)


def index_in(folder: Path) -> Path:
    """The one index in a folder; raises CheckpointError if it holds none or several."""
    found = sorted(path for path in folder.iterdir() if is_index(path))
    if len(found) == 1:
        return found[0]
    what = "which holds several indices" if found else f"without a sharded model's index (*{INDEX})"
    raise CheckpointError(f"{folder}: a directory, not a weights file, {what}; name the .pth or .safetensors in it")


def load_sharded(index: Path) -> dict[str, torch.Tensor]:
    """The tensors that an index lists, by key, on the CPU.

    Raises CheckpointError if the index is none, a shard is not beside it, or their keys differ.
    """
    listed: dict[str, set[str]] = {}
    for key, name in _weight_map(index).items():
        listed.setdefault(name, set()).add(key)
    state: dict[str, torch.Tensor] = {}
    for path in shards(index):
        loaded, keys = load_safetensors(path), listed[path.name]
        if loaded.keys() != keys:
            key = min(loaded.keys() ^ keys)
            said = "lacks" if key in keys else "holds besides"
            raise CheckpointError(
                f"{path}: not the shard that {index.name} lists: it {said} {key[:80]!r}; fetch both again"
            )
        state.update(loaded)
    return state


def shards(index: Path) -> list[Path]:
    """The files that an index names, by name; raises CheckpointError if one is not there, or not beside the index."""
    paths = [index.parent / name for name in shard_names(index)]
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such shard, but {index.name} names it; put it beside the index")
    return paths


def shard_names(index: Path) -> list[str]:
    """The plain names of the files that an index names, sorted; raises CheckpointError for any other name."""
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_][\w.\-]*\.safetensors", name, re.ASCII):
            raise CheckpointError(f"{index}: names the shard {name[:80]!r}; shards are .safetensors beside the index")
    if len(names) > MOST_SHARDS:
        raise CheckpointError(f"{index}: names {len(names)} shards; {MOST_SHARDS} at most")
    return names


def weights_files(path: Path) -> list[Path]:
    """Every file that a weights file consists of: itself and, if it is an index, its shards."""
    return [path, *(shards(path) if is_index(path) else ())]


def weights_name(path: Path) -> str:
    """A weights file's name without what says its kind: `model` for model.safetensors.index.json."""
    return path.name.removesuffix(INDEX) if is_index(path) else path.stem


def sha256_of(path: Path) -> str:
    """A weights file's SHA-256 in hex.

    An index's covers its shards: it is that of the index's bytes and then each shard's SHA-256 (its 32 bytes), the
    shards sorted by name.
    """
    digest = _digest(path)
    if is_index(path):
        for shard in shards(path):
            digest.update(_digest(shard).digest())
    return digest.hexdigest()


def _digest(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _weight_map(index: Path) -> Mapping[str, str]:
    with index.open("rb") as file:
        data = file.read(LARGEST_INDEX + 1)
    if len(data) > LARGEST_INDEX:
        raise CheckpointError(f"{index}: larger than {LARGEST_INDEX >> 20} MiB; not an index of GLIP's weights")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{index}: not JSON; fetch the index again") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index}: not an index: its weight_map should give each tensor's file")
    return places
