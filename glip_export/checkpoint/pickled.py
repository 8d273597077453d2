"""PyTorch's pickled files, read without running anything in them."""

from __future__ import annotations

import pickletools
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from glip_export.checkpoint.foreign import foreign_package
from glip_export.errors import CheckpointError


def load_torch(path: Path) -> Any:
    """What torch.save wrote there, its tensors on the CPU; zip files are mapped, not copied.

    NumPy's scalars and arrays, and mmengine's log buffers, become `Unread`: training loops write them beside the
    model. Raises CheckpointError for any other pickled code, naming it, and for what is not a weights file.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        with (
            _allowing_unread(),
            warnings.catch_warnings(),
        ):  # its advice (unusual pickle protocols, TorchScript) is not the user's
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    # A damaged file can make the unpickler raise anything, from KeyError to MemoryError.
    except Exception as error:
        raise CheckpointError(f"{path}: {_why_not_loaded(path, zipped, error)}") from error


_OPENMMLAB = ("mmengine.", "mmcv.", "mmdet.")


def _why_not_loaded(path: Path, zipped: bool, error: Exception) -> str:
    text = str(error)
    # A text file that begins with a "c" looks like such a name too, but not like module.name.
    modules = "*" if zipped else "+"
    wanted = re.findall(rf"GLOBAL ((?:[^\W\d]\w*\.){modules}[^\W\d]\w*)(?= |$)", text)
    wanted = wanted or ([] if zipped else _pickled_globals(path))
    if wanted and wanted[0].startswith(_OPENMMLAB):
        return (
            f"holds pickled code of mmdetection (names {wanted[0]}): refused; if you trust it, keep the weights alone, "
            "where mmdetection is: torch.save({'state_dict': torch.load(FILE, 'cpu', weights_only=False)"
            "['state_dict']}, OUTPUT)"
        )
    if wanted:
        other = foreign_package(wanted[0])
        guess = f" (it looks like {other})" if other else ""
        return f"holds pickled code (names {wanted[0]}): refused; GLIP's official files hold only tensors{guess}"
    if "call reduce for unrecognized" in text:
        return "holds pickled code: refused; GLIP's official files hold only tensors"
    if zipped and "Unsupported operand" in text:
        return (
            "pickled in a newer protocol than PyTorch's weights-only reader knows; where it was written, save it again "
            "as torch.save does by default (pickle_protocol=2)"
        )
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


class Unread:
    """Stands for what a file keeps beside the weights and nobody reads: it takes any arguments and keeps none."""

    def __new__(cls, *_: object) -> Unread:
        """An empty one, whatever a pickle gives it."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        """Nothing is kept."""

    def __setstate__(self, state: object) -> None:
        """Nothing is kept."""


# Only Unread stands behind these names: nothing of NumPy, mmengine or Python is called, whatever the file gives them.
_UNREAD = (
    "numpy.core.multiarray.scalar",  # np.float64(0.5) by NumPy 1
    "numpy._core.multiarray.scalar",  # by NumPy 2
    "numpy.core.multiarray._reconstruct",  # an array
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "mmengine.logging.history_buffer.HistoryBuffer",  # mmdetection's training log, with
    "builtins.getattr",  # its methods by name
)
_lock = threading.Lock()  # the allowed names are the process's


@contextmanager
def _allowing_unread() -> Iterator[None]:
    with _lock, torch.serialization.safe_globals([(Unread, name) for name in _UNREAD]):
        yield
