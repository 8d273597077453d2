"""What this process may use, and what processes of ours that it starts need."""

from __future__ import annotations

import os
from pathlib import Path

import glip_export


def usable_cores() -> int:
    """CPUs this process may run on: fewer than the machine has in many containers."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def child_environment() -> dict[str, str]:
    """The environment with this very package on Python's path, installed or not."""
    package = str(Path(glip_export.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
