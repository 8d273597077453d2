"""Every kernel compiles for every architecture: by NVRTC, with the cache around it, and by nvcc."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from host_kernels import PLUGINS

from glip_export.errors import BackendError
from glip_export.trt import nvrtc
from glip_export.trt.kernels import compile_cubin

CAPABILITIES = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
NOT_INSTALLED = "NVRTC is not installed: pip install 'glip-export[trt]'"
KERNELS = [
    *(f"glip_add_norm_{kind}{wide}" for kind in ("f32", "f16", "f16_of_f16") for wide in ("", "_wide")),
    *(f"glip_deform_im2col_{kind}" for kind in ("f32", "f32_pair", "f16", "f16_pair")),
    *(
        f"glip_dyconv_{step}_{kind}"
        for step in ("offsets", "convolve", "coefficients", "combine")
        for kind in ("f32", "f16")
    ),
    "glip_candidates_clear",
    *(
        f"glip_candidates_{step}_{kind}"
        for step in ("histogram", "ties", "collect", "finish")
        for kind in ("f32", "f16")
    ),
    *(f"glip_window_attention_{kind}" for kind in ("f32", "f16_16", "f16_32", "f16_48", "f16_64")),
    *(f"glip_text_{step}" for step in ("reads_f32_64", "reads_f32_256", "reads_f16_64", "reads_f16_256")),
    *(f"glip_text_combine_{kind}" for kind in ("f32", "f16")),
    *(f"glip_image_reads_{kind}" for kind in ("f32_64", "f32_256", "f16_64", "f16_256", "f16_64_pair", "f16_256_pair")),
    "glip_nms_rank",
    "glip_nms_select",
]


@pytest.fixture
def installed() -> Any:
    """cuda.bindings.nvrtc, with its library."""
    bindings = pytest.importorskip("cuda.bindings.nvrtc", reason=NOT_INSTALLED)
    try:
        bindings.nvrtcVersion()
    except RuntimeError:
        pytest.skip(NOT_INSTALLED)
    return bindings


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_nvrtc_compiles_every_kernel(installed: Any, cache_folder: Path, capability: tuple[int, int]) -> None:
    cubin = compile_cubin(capability)
    assert cubin.startswith(b"\x7fELF")
    for kernel in KERNELS:
        assert f".text.{kernel}\0".encode() in cubin


def test_the_cache_answers_and_knows_its_sources(
    installed: Any, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cubin = compile_cubin((8, 6))
    (kept,) = (cache_folder / "glip-export" / "kernels").iterdir()
    assert kept.name.startswith("sm_86-") and kept.read_bytes() == cubin

    sources = tmp_path / "sources"
    sources.mkdir()
    for path in nvrtc.kernel_sources().iterdir():
        (sources / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(nvrtc, "kernel_sources", lambda: sources)
    with monkeypatch.context() as no_compiler:
        no_compiler.setattr(nvrtc, "_compile", lambda *_: pytest.fail("compiled again"))
        assert compile_cubin((8, 6)) == cubin

    with (sources / "box_selection.cuh").open("a") as file:
        file.write("// changed\n")
    compile_cubin((8, 6))
    assert len(list(kept.parent.iterdir())) == 2


def test_a_damaged_or_unwritable_cache_does_no_harm(
    installed: Any, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cubin = compile_cubin((8, 0))
    (kept,) = (cache_folder / "glip-export" / "kernels").iterdir()
    kept.write_bytes(b"")
    assert len(compile_cubin((8, 0))) == len(cubin)
    assert len(kept.read_bytes()) == len(cubin)
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))  # a file, in which there can be no folder
    assert len(compile_cubin((8, 0))) == len(cubin)


def test_a_device_that_nvrtc_does_not_know_is_one_line(installed: Any, cache_folder: Path) -> None:
    with pytest.raises(BackendError, match=r"not for sm_10: a newer device needs a newer nvidia-cuda-nvrtc$"):
        compile_cubin((1, 0))
    assert not [path for path in cache_folder.rglob("*") if path.is_file()]


def test_sources_that_do_not_compile_say_why(
    installed: Any, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "glip_kernels.cu").write_text("__global__ void broken() { undeclared(); }\n")
    monkeypatch.setattr(nvrtc, "kernel_sources", lambda: tmp_path)
    with pytest.raises(BackendError, match='identifier "undeclared" is undefined'):
        compile_cubin((8, 0))


@pytest.mark.parametrize("module", ["cuda.bindings", "cuda.pathfinder"])
def test_without_the_packages_the_pip_line_is_named(
    request: pytest.FixtureRequest, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    if module == "cuda.pathfinder":
        request.getfixturevalue("installed")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=r"pip install 'glip-export\[cuda\]'"):
        compile_cubin((8, 0))


def test_without_headers_the_pip_line_is_named(
    installed: Any, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cuda.pathfinder.find_nvidia_header_directory", lambda _: None)
    with pytest.raises(BackendError, match=r"cuda_fp16.h is not installed: pip install 'glip-export\[cuda\]'"):
        compile_cubin((8, 0))


def test_nvcc_compiles_every_kernel_and_launcher(nvcc: str, tmp_path: Path) -> None:
    known = subprocess.run([nvcc, "--list-gpu-code"], check=True, capture_output=True, text=True).stdout.split()
    numbers = [number for number in (f"{major}{minor}" for major, minor in CAPABILITIES) if f"sm_{number}" in known]
    assert len(numbers) >= 5  # a toolkit before 12.8 lacks 100 and 120
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    for source in sorted((PLUGINS / "launchers").glob("*.cu")):
        built = tmp_path / f"{source.stem}.o"
        command = [nvcc, "-std=c++17", "-Werror=all-warnings", "-Wno-deprecated-gpu-targets", *targets]
        subprocess.run([*command, "-c", str(source), "-o", str(built)], check=True)
        assert built.stat().st_size > 0
