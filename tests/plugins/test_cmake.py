"""The CMake project configures and builds what this machine can build, and says what it leaves out."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from host_kernels import PLUGINS, HostKernels, compiler

DECLARATIONS = Path(__file__).with_name("declarations")
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


@pytest.fixture
def sdk(tmp_path: Path) -> Path:
    """TensorRT's API as declared here, and a library that has nothing in it."""
    folder = tmp_path / "sdk"
    (folder / "include").mkdir(parents=True)
    (folder / "lib").mkdir()
    shutil.copy(DECLARATIONS / "NvInferRuntime.h", folder / "include")
    (tmp_path / "nothing.cpp").write_text("")
    options = ["-shared", "-fPIC", str(tmp_path / "nothing.cpp"), "-o", str(folder / "lib" / "libnvinfer.so")]
    subprocess.run([str(compiler()), *options], check=True)
    return folder


def test_everything_that_can_be_built_here_is(cmake: str, sdk: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    _configure(cmake, build, f"-DTENSORRT_ROOT={sdk}", "-DGLIP_STATIC_REGISTRATION=OFF")
    done = subprocess.run([cmake, "--build", str(build)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert HostKernels(build / "libglip_host_kernels.so").argument_bytes("glip_nms_rank") == [8, 8, 4, 4]
    assert (build / "libglip_launchers.a").exists() == (build / "libglip_plugins.so").exists() == HAS_NVCC


def test_what_is_left_out_is_told(cmake: str, tmp_path: Path) -> None:
    said = _configure(cmake, tmp_path, "-DTENSORRT_ROOT=/nowhere")
    missing = "no TensorRT SDK found" if HAS_NVCC else "no CUDA compiler"
    assert f"glip_plugins is not built: {missing}" in said or f"glip_plugins are not built: {missing}" in said


def test_no_two_launchers_define_one_kernel() -> None:
    """They are linked into one library, so what several include must define none."""
    if compiler() is None:
        pytest.skip("no C++ compiler: install g++, or name one in CXX")
    options = ["-E", "-P", "-x", "c++", "-std=c++17", "-I", str(PLUGINS / "host_shim"), "-I", str(DECLARATIONS)]
    where: dict[str, str] = {}
    for launcher in sorted((PLUGINS / "launchers").glob("*.cu")):
        made = subprocess.run([str(compiler()), *options, str(launcher)], check=True, capture_output=True, text=True)
        kernels = re.findall(r'extern "C"\s+void\s+(glip_\w+)\s*\([^;{]*\)\s*{', made.stdout)
        assert kernels, f"{launcher.name} has no kernel"
        for kernel in kernels:
            assert where.setdefault(kernel, launcher.name) == launcher.name, f"{kernel} is in two objects"


def test_without_cuda_only_the_host_kernels_are_configured(cmake: str, tmp_path: Path) -> None:
    said = _configure(cmake, tmp_path, "-DGLIP_CUDA=OFF")
    assert "glip_launchers and glip_plugins are not built: GLIP_CUDA is OFF" in said
    targets = subprocess.run(
        [cmake, "--build", str(tmp_path), "--target", "help"], check=True, capture_output=True, text=True
    ).stdout
    assert "glip_host_kernels" in targets
    assert "glip_launchers" not in targets
