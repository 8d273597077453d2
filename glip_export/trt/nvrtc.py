"""The plugins' CUDA kernels as cubins: NVRTC compiles them, without a GPU or driver, and a cache keeps them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glip_export.bundle.files import atomic_write_bytes, user_cache
from glip_export.errors import BackendError, GlipExportError

INSTALL = "pip install 'glip-export[cuda]'"

_ENTRY = "glip_kernels.cu"  # includes all kernels
_OPTIONS = ("-std=c++17",)
_ELF = b"\x7fELF"


def compile_cubin(compute_capability: tuple[int, int]) -> bytes:
    """The kernels for one compute capability, (8, 9) for example: from the cache, else compiled, in some seconds.

    The cache is glip-export/kernels in $XDG_CACHE_HOME or ~/.cache; where it cannot be written, nothing is kept.
    Raises BackendError if NVRTC or CUDA's headers are not installed, or if NVRTC does not know the device.
    """
    nvrtc = _import_nvrtc()
    major, minor = _call(nvrtc, nvrtc.nvrtcVersion)
    architecture = f"sm_{compute_capability[0]}{compute_capability[1]}"
    folder = kernel_sources()
    key = _key(folder, architecture, f"{major}.{minor}")
    cache = user_cache("kernels")
    if cache is None:  # where a home is read-only, each start compiles anew
        return _compile(nvrtc, folder, architecture, f"{major}.{minor}")
    cached = cache / f"{architecture}-{key}.cubin"
    with contextlib.suppress(OSError):
        data = cached.read_bytes()
        if data.startswith(_ELF):
            return data
    cubin = _compile(nvrtc, folder, architecture, f"{major}.{minor}")
    with contextlib.suppress(GlipExportError, OSError):  # a full disk
        atomic_write_bytes(cached, cubin)
    return cubin


def kernel_sources() -> Path:
    """The folder of the kernels' sources: in the installed package, or plugins/kernels beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed, checkout = package / "kernel_sources", package.parents[1] / "plugins" / "kernels"
    for folder in (installed, checkout):
        if (folder / _ENTRY).is_file():
            return folder
    raise BackendError(f"the CUDA kernels are missing: neither {installed} nor {checkout} has {_ENTRY}; reinstall")


def _compile(nvrtc: Any, folder: Path, architecture: str, version: str) -> bytes:
    options = [f"--gpu-architecture={architecture}", *_OPTIONS, f"-I{folder}", f"-I{_cuda_headers()}"]
    source = (folder / _ENTRY).read_bytes()
    program = _call(nvrtc, nvrtc.nvrtcCreateProgram, source, _ENTRY.encode(), 0, None, None)
    try:
        (code,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if code == nvrtc.nvrtcResult.NVRTC_ERROR_INVALID_OPTION:
            known = ", ".join(f"sm_{number}" for number in _call(nvrtc, nvrtc.nvrtcGetSupportedArchs))
            raise BackendError(
                f"NVRTC {version} compiles for {known}, not for {architecture}: a newer device needs a newer "
                "nvidia-cuda-nvrtc"
            )
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise BackendError(f"NVRTC {version} failed on the kernels for {architecture}: {_log(nvrtc, program)}")
        cubin = bytearray(_call(nvrtc, nvrtc.nvrtcGetCUBINSize, program))
        _call(nvrtc, nvrtc.nvrtcGetCUBIN, program, cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return bytes(cubin)


def _log(nvrtc: Any, program: Any) -> str:
    text = bytearray(_call(nvrtc, nvrtc.nvrtcGetProgramLogSize, program))
    _call(nvrtc, nvrtc.nvrtcGetProgramLog, program, text)
    return " ".join(bytes(text).rstrip(b"\0").decode(errors="replace").split())


def _key(folder: Path, architecture: str, version: str) -> str:
    digest = hashlib.sha256(repr((architecture, version, _OPTIONS)).encode())
    for path in sorted(folder.iterdir()):
        if path.suffix in (".cu", ".cuh"):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _import_nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise BackendError(f"compiling the CUDA kernels needs NVRTC ({error}): {INSTALL}") from error
    return nvrtc


def _cuda_headers() -> Path:
    try:
        from cuda.pathfinder import find_nvidia_header_directory
    except ImportError as error:
        raise BackendError(f"compiling the CUDA kernels needs cuda-pathfinder ({error}): {INSTALL}") from error
    folder = find_nvidia_header_directory("cudart")
    if folder is None:
        raise BackendError(f"cuda_fp16.h is not installed: {INSTALL}, or set CUDA_HOME to a CUDA toolkit")
    return Path(folder)


def _call(nvrtc: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        code, *values = function(*arguments)
    except RuntimeError as error:  # the bindings found no libnvrtc
        raise BackendError(f"NVRTC is not installed ({str(error).splitlines()[0]}): {INSTALL}") from error
    if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"NVRTC: {function.__name__} failed with {code.name}")
    return values[0] if len(values) == 1 else values
