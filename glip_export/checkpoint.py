"""Official weights files as plain fp32 state dicts: read without running anything, and matched key by key."""

from __future__ import annotations

import hashlib
import logging
import pickletools
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from glip_export.errors import CheckpointError

Shape = tuple[int, ...]


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


# Keys of a checkpoint that no module of ours takes, and why.
IGNORED = (
    (r".*\.relative_position_index", "not a parameter"),
    (r"rpn\.anchor_generator\.cell_anchors\.\d+", "not a parameter"),
    (r".*\.embeddings\.(position_ids|token_type_ids)", "not a parameter"),
    (r"rpn\.head\.cls_logits\..*", "stored but unused"),
    (r"language_backbone\.body\.model\.pooler\..*", "unused"),
    (r"rpn\.head\.mlm_head\..*", "for training only"),
    (r"rpn\.tunable_linear\.weight", "all zero"),
)
PROMPT_TUNING = "rpn.tunable_linear.weight"  # added to BERT's features by FUSE_CONFIG.ADD_LINEAR_LAYER


@dataclass(frozen=True)
class LoadReport:
    """What of a checkpoint a model takes, and what it lacks."""

    loaded: tuple[str, ...]
    ignored: dict[str, str]  # key -> why
    missing: dict[str, Shape]  # key -> expected shape
    mis_shaped: dict[str, tuple[Shape, Shape]]  # key -> expected, got
    not_floating: dict[str, str]  # key -> its dtype
    prompt_tuned: bool = False

    def raise_if_incomplete(self, path: str | Path) -> None:
        """Raises CheckpointError, listing the first ten keys that are missing, mis-shaped or not floating."""
        if self.prompt_tuned:
            raise CheckpointError(
                f"{path}: a prompt-tuned checkpoint ({PROMPT_TUNING}, ADD_LINEAR_LAYER) is not supported"
            )
        problems = [f"{key} {shape} is missing" for key, shape in self.missing.items()]
        problems += [f"{key} should be {shape}, is {got}" for key, (shape, got) in self.mis_shaped.items()]
        problems += [f"{key} holds {dtype}, not floats" for key, dtype in self.not_floating.items()]
        if problems:
            more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
            raise CheckpointError(
                f"{path}: does not fit the configuration, {len(self.missing)} keys missing, {len(self.mis_shaped)} "
                f"mis-shaped: {'; '.join(problems[:10])}{more}. Is it another model? Give --config or --bert-config"
            )

    def summary(self) -> str:
        """One line: `500 tensors loaded, 9 ignored (8 not a parameter, 1 unused), 0 missing, 0 mis-shaped`."""
        reasons: dict[str, int] = {}
        for why in self.ignored.values():
            reasons[why] = reasons.get(why, 0) + 1
        detail = f" ({', '.join(f'{count} {why}' for why, count in reasons.items())})" if reasons else ""
        return (
            f"{len(self.loaded)} tensors loaded, {len(self.ignored)} ignored{detail}, "
            f"{len(self.missing)} missing, {len(self.mis_shaped)} mis-shaped"
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)


def match(state: Mapping[str, torch.Tensor], expected: Mapping[str, Shape]) -> LoadReport:
    """Compares a state dict with the parameters a model expects (key -> shape); raises nothing."""
    loaded, mis_shaped, not_floating = [], {}, {}
    for key, shape in expected.items():
        if key not in state:
            continue
        tensor = state[key]
        if tuple(tensor.shape) != tuple(shape):
            mis_shaped[key] = (tuple(shape), tuple(tensor.shape))
        elif not tensor.is_floating_point():
            not_floating[key] = str(tensor.dtype).removeprefix("torch.")
        else:
            loaded.append(key)
    return LoadReport(
        loaded=tuple(loaded),
        ignored={key: _why_ignored(key) for key in state if key not in expected},
        missing={key: tuple(shape) for key, shape in expected.items() if key not in state},
        mis_shaped=mis_shaped,
        not_floating=not_floating,
        prompt_tuned=PROMPT_TUNING in state and bool(state[PROMPT_TUNING].any()),
    )


def _why_ignored(key: str) -> str:
    return next((why for pattern, why in IGNORED if re.fullmatch(pattern, key)), "unknown to this model")


def resolve_weights(weights: str | Path) -> Path:
    """The file that --weights names: a path, or hf://OWNER/REPO/FILE through huggingface_hub's cache.

    Raises CheckpointError if there is no such file, the address is malformed or it cannot be fetched.
    """
    text = str(weights)
    # Path("hf://owner/repo") has already lost a slash.
    address = re.fullmatch(r"hf:/{1,2}(.*)", text)
    if address is None:
        check_file(Path(text))
        return Path(text)
    parts = address[1].split("/")
    if len(parts) < 3 or not all(re.fullmatch(r"[A-Za-z0-9_][\w.\-]*", part, re.ASCII) for part in parts):
        raise CheckpointError(
            f"{text}: expected hf://OWNER/REPO/FILE, such as hf://GLIPModel/GLIP/glip_a_tiny_o365.pth"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise CheckpointError(f"{text}: needs huggingface_hub: pip install 'glip-export[hub]'") from error
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # or it warns of every retry before we say what is wrong
    try:
        return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
    except Exception as error:  # its HTTP library's errors change with its versions
        reason = next(iter(str(error).split("\n")), "") or type(error).__name__
        raise CheckpointError(
            f"{text}: cannot be fetched ({reason}); check the address and the network, or give a local file"
        ) from error
