"""What training leaves on the disk as PyTorch's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glip_export.bundle.files import atomic_path
from glip_export.errors import GlipExportError


def save_torch(value: Any, target: Path) -> None:
    """torch.save, whole or not at all. Raises GlipExportError where `target` cannot be written."""
    with atomic_path(target) as temporary:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:  # its way of telling a full disk
            words = " ".join(str(error).split())
            raise GlipExportError(f"cannot write {target}: is the disk full? PyTorch says: {words[:200]}") from error
