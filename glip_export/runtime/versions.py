"""The oldest release of each inference library that runs a bundle, and what a user with an older one is told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType

from glip_export.errors import BackendError


@dataclass(frozen=True)
class _Oldest:
    """release: as in pyproject.toml. packages: the distributions that bring the module, the likeliest first."""

    release: str
    packages: tuple[str, ...]
    lacking: str  # what older ones cannot do


OLDEST = {
    "onnxruntime": _Oldest("1.25", ("onnxruntime", "onnxruntime-gpu"), "cannot run the fusion head (no DeformConv)"),
    "openvino": _Oldest("2026.1", ("openvino",), "is older than any that a bundle was run with"),
}


def check_version(module: ModuleType) -> None:
    """Raises BackendError, with what to install, if the module, onnxruntime or openvino, is too old for a bundle."""
    oldest, version = OLDEST[module.__name__], module.__version__.split("-")[0]  # OpenVINO: 2026.1.0-21367-63e31528c62
    if _numbers(version) < _numbers(oldest.release):
        package = next((name for name in oldest.packages if _installed(name) == version), oldest.packages[0])
        raise BackendError(f"{package} {version} {oldest.lacking}: pip install '{package}>={oldest.release}'")


def _numbers(version: str) -> tuple[int, int]:
    """(1, 25) of 1.25.0, 1.25.0.dev20260301 and 1.25+cu12. A name that is no number is of somebody's own build."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (9999, 0)


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
