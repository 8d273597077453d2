"""The CMake project configures and builds what this machine can build, and says what it leaves out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from host_kernels import PLUGINS, HostKernels, compiler

HAS_NVCC = shutil.which("nvcc") is not None


@pytest.fixture
def cmake() -> str:
    found = shutil.which("cmake")
    if found is None:
        pytest.skip("no cmake on PATH")
    if compiler() is None:
        pytest.skip("no C++ compiler: install g++, or name one in CXX")
    return found


def _configure(cmake: str, folder: Path, *options: str) -> str:
    command = [cmake, "-S", str(PLUGINS), "-B", str(folder), "-DCMAKE_CUDA_ARCHITECTURES=80", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_everything_that_can_be_built_here_is(cmake: str, tmp_path: Path) -> None:
    said = _configure(cmake, tmp_path, "-DTENSORRT_ROOT=/nowhere")
    subprocess.run([cmake, "--build", str(tmp_path)], check=True, capture_output=True, text=True)
    assert HostKernels(tmp_path / "libglip_host_kernels.so").argument_bytes("glip_nms_rank") == [8, 8, 4, 4]
    assert (tmp_path / "libglip_launchers.a").exists() == HAS_NVCC
    if not (tmp_path / "libglip_plugins.so").exists():
        missing = "no TensorRT SDK found" if HAS_NVCC else "no CUDA compiler"
        assert f"glip_plugins is not built: {missing}" in said or f"glip_plugins are not built: {missing}" in said


def test_without_cuda_only_the_host_kernels_are_configured(cmake: str, tmp_path: Path) -> None:
    said = _configure(cmake, tmp_path, "-DGLIP_CUDA=OFF")
    assert "glip_launchers and glip_plugins are not built: GLIP_CUDA is OFF" in said
    targets = subprocess.run(
        [cmake, "--build", str(tmp_path), "--target", "help"], check=True, capture_output=True, text=True
    ).stdout
    assert "glip_host_kernels" in targets
    assert "glip_launchers" not in targets
