"""Official weights files as plain fp32 state dicts, read without running anything."""

from __future__ import annotations

import hashlib
import pickletools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glip_export.checkpoint.matching import Shape
from glip_export.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """A weights file: its tensors by key without `module.`; floating ones in fp32, on the CPU."""

    path: Path
    sha256: str
    state: dict[str, torch.Tensor]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Key -> shape; what `load_config` identifies a published model by."""
        return {key: tuple(tensor.shape) for key, tensor in self.state.items()}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a .pth (PyTorch's zip or older format) or .safetensors, never running pickled code.

    Takes {"model": state}, {"state_dict": state} or the bare state, fp16 to fp64 storage, with or without `module.`.
    Zip files are mapped, not copied: what stands beside the model (an optimizer's state) costs no memory.
    Raises CheckpointError, naming the file and what to do, for anything else.
    """
    path = Path(path)
    check_file(path)
    loaded = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    state = _find_state(path, loaded)
    if all(key.startswith("module.") for key in state):  # what DistributedDataParallel leaves
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return Checkpoint(path, _sha256(path), {key: _as_weights(path, key, value) for key, value in state.items()})


def check_file(path: Path) -> None:
    """Raises CheckpointError if the path is not a readable file that holds something."""
    try:
        if path.is_dir():
            raise CheckpointError(f"{path}: a directory, not a weights file; name the .pth or .safetensors in it")
        with path.open("rb") as file:
            if not file.read(1):
                raise CheckpointError(f"{path}: an empty file; fetch the weights again")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such weights file") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise CheckpointError(f"{path}: cannot read the weights: {getattr(error, 'strerror', error)}") from error


def _load_torch(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        with warnings.catch_warnings():  # its advice (unusual pickle protocols, TorchScript) is not the user's
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    # A damaged file can make the unpickler raise anything, from KeyError to MemoryError.
    except Exception as error:
        raise CheckpointError(f"{path}: {_why_not_loaded(path, zipped, error)}") from error


def _why_not_loaded(path: Path, zipped: bool, error: Exception) -> str:
    text = str(error)
    # A text file that begins with a "c" looks like such a name too, but not like module.name.
    wanted = re.findall(r"GLOBAL ((?:[^\W\d]\w*\.)+[^\W\d]\w*)(?= |$)", text)
    wanted = wanted or ([] if zipped else _pickled_globals(path))
    if wanted:
        return f"holds pickled code (names {wanted[0]}): refused; GLIP's official files hold only tensors"
    if "TorchScript" in text:
        return "holds TorchScript code: refused; GLIP's official files hold only tensors"
    if zipped:
        return "a damaged or cut off weights file, or another kind of zip; fetch it again"
    return "not a weights file of PyTorch, or a damaged one; give a GLIP checkpoint (.pth or .safetensors)"


def _pickled_globals(path: Path) -> list[str]:
    """The names that a bare pickle would import, read off its opcodes without running them; [] if it is none."""
    names: list[str] = []
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(strings[-2:]))
                elif "UNICODE" in opcode.name:
                    strings.append(str(argument))
    except Exception:  # genops raises what it likes where a file is no pickle or cut off
        return []
    return names


def _load_safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path}: needs safetensors: pip install 'glip-export[export]'") from error
    try:
        return load_file(path, device="cpu")
    except Exception as error:  # SafetensorError, but also what torch says of an unknown dtype
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: not a safetensors file, or a damaged one ({reason}); fetch it again") from error


def _find_state(path: Path, loaded: Any) -> dict[str, Any]:
    for name in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
            break
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a state dict of tensors")
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: not a state dict of tensors: {key!r} holds a {type(value).__name__}")
    if not loaded:
        raise CheckpointError(f"{path}: holds no tensors; give a GLIP checkpoint")
    return dict(loaded)


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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
