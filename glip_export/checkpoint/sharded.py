"""Safetensors files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glip_export.errors import CheckpointError


def load_safetensors(path: Path) -> Any:
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
