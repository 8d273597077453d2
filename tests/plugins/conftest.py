"""The host shim, built once for all of pytest's workers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from host_kernels import HostKernels, build, compiler


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    """The CUDA kernels as plain C++."""
    if compiler() is None:
        pytest.skip("no C++ compiler: install g++, or name one in CXX")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    library = shared / "libglip_host_kernels.so"
    with FileLock(shared / "host_kernels.lock"):
        if not library.exists():
            build(library)
    return HostKernels(library)


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
