"""What the plugins' tests share; the kernels as C++ are in tests/conftest.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder in place of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def nvcc() -> str:
    """CUDA's own compiler."""
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("no nvcc on PATH: the CUDA toolkit is not installed")
    return found
