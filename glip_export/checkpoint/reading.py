"""Official weights files, and mmdetection's, as plain fp32 state dicts, read without running anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glip_export.checkpoint.foreign import foreign_model
from glip_export.checkpoint.matching import Shape
from glip_export.checkpoint.mmdetection import is_mmdetection, to_official
from glip_export.checkpoint.pickled import Unread, load_torch
from glip_export.checkpoint.sharded import index_in, is_index, load_safetensors, load_sharded, sha256_of, shards
from glip_export.errors import CheckpointError

AVERAGED = "model_ema"  # where the original's training keeps the average, under the same keys as `model`


@dataclass(frozen=True)
class Checkpoint:
    """A weights file: its tensors by key without `module.`; floating ones in fp32, on the CPU."""

    path: Path
    sha256: str
    state: dict[str, torch.Tensor]
    ema: bool = False  # whether these are the file's averaged weights

    @property
    def shapes(self) -> dict[str, Shape]:
        """Key -> shape; what `load_config` identifies a published model by."""
        return {key: tuple(tensor.shape) for key, tensor in self.state.items()}


def read_checkpoint(path: str | Path, ema: bool = False) -> Checkpoint:
    """Reads a .pth (PyTorch's zip or older format) or .safetensors, whole or sharded, never running pickled code.

    Takes {"model": state}, {"state_dict": state} or the bare state, fp16 to fp64 storage, with or without `module.`.
    mmdetection's GLIP comes under the official names. A sharded one is named by its index or the folder with it.
    ema: the file's averaged weights (`model_ema`) in place of those.
    Zip files are mapped, not copied: what stands beside the model (an optimizer's state) costs no memory.
    Raises CheckpointError, naming the file and what to do, for anything else.
    """
    path = check_file(Path(path))
    loaded = _load(path)
    state = _find_state(path, _averaged(path, loaded) if ema else loaded)
    while all(key.startswith("module.") for key in state):  # what DistributedDataParallel leaves, once for each in it
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if (other := foreign_model(state)) is not None:
        raise CheckpointError(
            f"{path}: looks like the weights of {other}, not of GLIP; give a GLIP checkpoint (.pth or .safetensors)"
        )
    weights = {key: _as_weights(path, key, value) for key, value in state.items()}
    return Checkpoint(path, sha256_of(path), to_official(weights) if is_mmdetection(weights) else weights, ema)


def check_file(path: Path) -> Path:
    """The path, or the index in it if it is a sharded model's folder.

    Raises CheckpointError if it is not a readable file that holds something, or a shard is not there.
    """
    try:
        if path.is_dir():
            path = index_in(path)
        with path.open("rb") as file:
            if not file.read(1):
                raise CheckpointError(f"{path}: an empty file; fetch the weights again")
        for shard in shards(path) if is_index(path) else ():
            check_file(shard)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such weights file") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise CheckpointError(f"{path}: cannot read the weights: {getattr(error, 'strerror', error)}") from error
    return path


def _load(path: Path) -> Any:
    if is_index(path):
        return load_sharded(path)
    return load_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)


def _averaged(path: Path, loaded: Any) -> Any:
    if isinstance(loaded, Mapping) and isinstance(loaded.get(AVERAGED), Mapping):
        return {"model": loaded[AVERAGED]}
    # mmengine swaps the two when it saves.
    swapped = isinstance(loaded, Mapping) and "ema_state_dict" in loaded
    reason = "mmdetection's state_dict is the average already" if swapped else "the model was trained without them"
    raise CheckpointError(f"{path}: holds no averaged weights ({AVERAGED}): {reason}; leave out --ema")


def _find_state(path: Path, loaded: Any) -> dict[str, Any]:
    for name in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
            break
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a state dict of tensors")
    for key, value in loaded.items():
        if key == AVERAGED and isinstance(value, Mapping):
            raise CheckpointError(f"{path}: holds averaged weights only ({AVERAGED}): give --ema")
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: not a state dict of tensors: {key!r} holds a {_kind(value)}")
    if not loaded:
        raise CheckpointError(f"{path}: holds no tensors; give a GLIP checkpoint")
    return dict(loaded)


def _kind(value: object) -> str:
    return "value of NumPy" if isinstance(value, Unread) else type(value).__name__


def _as_weights(path: Path, key: str, value: torch.Tensor) -> torch.Tensor:
    value = value.detach()
    if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        raise CheckpointError(f"{path}: {key} is not a dense tensor; save the weights unquantized")
    if value.is_complex():
        raise CheckpointError(f"{path}: {key} is complex; GLIP's weights are real")
    # Strides of 0 would let a small file ask for any amount of memory.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CheckpointError(f"{path}: {key} claims more values than the file holds; fetch it again")
    if value.is_floating_point():
        value = value.float()
        if value.numel() and not all(torch.isfinite(extreme) for extreme in value.aminmax()):
            raise CheckpointError(
                f"{path}: {key} holds NaN or infinity (in fp32); these weights cannot detect anything"
            )
    return value
