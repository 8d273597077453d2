"""Which TensorRT: `tensorrt`, which builds on the GPU it builds for, or `tensorrt_rtx`, which builds without one.

TensorRT for RTX has a trap: at the first plugin node its ONNX parser opens `libtensorrt_rtx.so`, the wheel ships only
`libtensorrt_rtx.so.1`, and the parser ends the process. The parser looks beside itself first, that is in the folder it
was loaded through. So both libraries are loaded through a folder of links that has the name it wants, before the
package loads them; a library that is loaded already is not loaded again. Where a program imported `tensorrt_rtx`
earlier it is too late for this, and such a process can run engines but not parse plugin nodes; engines are therefore
always built in a process of their own (`builder`).
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from glip_export.errors import BackendError
from glip_export.trt.gpus import Gpu, rtx_doubt, rtx_refusal, rtx_serves

AUTO, TENSORRT, TENSORRT_RTX = "auto", "tensorrt", "tensorrt_rtx"
FLAVORS = (TENSORRT, TENSORRT_RTX)
INSTALL = {TENSORRT: "pip install tensorrt", TENSORRT_RTX: "pip install tensorrt-rtx==1.7.1.116"}
OLDEST_TENSORRT = (10, 8)
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@dataclass(frozen=True)
class Flavor:
    """A TensorRT that is installed and imported."""

    name: str
    version: str
    module: ModuleType


def choose_flavor(word: str = AUTO, targets: Sequence[str] = ()) -> str:
    """The flavor that a word means; auto is tensorrt where it is installed and a GPU works, else tensorrt_rtx.

    Not where the GPU is one that tensorrt_rtx is not sure to serve: auto does not take it then, and by name it is
    refused where the GPU cannot run its engines. targets: the compute capabilities that a recipe names; engines for
    other GPUs than this one are built by who names those. Raises BackendError, with what to do, also for what is not
    installed, and for tensorrt without a GPU.
    """
    if word == AUTO:
        return _first_that_serves(targets)
    if word not in FLAVORS:
        raise BackendError(f"there is no flavor {word!r}: choose {', '.join((AUTO, *FLAVORS))}")
    gpu = find_gpu()
    if word == TENSORRT_RTX and gpu is not None and not targets and (why_not := rtx_refusal(gpu)):
        raise BackendError(f"{why_not}; to build for other GPUs name them, as compute_capabilities in --recipe")
    if not is_installed(word):
        raise BackendError(f"{word} is not installed: {INSTALL[word]}")
    if word == TENSORRT and gpu is None:
        raise BackendError(
            "tensorrt builds on the GPU that its engines are for, and no GPU works here; "
            "--flavor tensorrt_rtx builds without one"
        )
    return word


def _first_that_serves(targets: Sequence[str]) -> str:
    gpu = find_gpu()
    if gpu is not None and is_installed(TENSORRT):
        return TENSORRT
    if gpu is not None and not targets and not rtx_serves(gpu):
        raise BackendError(f"{rtx_refusal(gpu) or rtx_doubt(gpu)}; tensorrt is not installed: {INSTALL[TENSORRT]}")
    if is_installed(TENSORRT_RTX):
        return TENSORRT_RTX
    raise BackendError(
        f"no TensorRT is installed: {INSTALL[TENSORRT_RTX]} builds engines even without a GPU; "
        f"{INSTALL[TENSORRT]} needs the GPU that they are for"
    )


@cache
def load_flavor(name: str) -> Flavor:
    """Imports `tensorrt` or `tensorrt_rtx`; raises BackendError if it is missing, broken or too old."""
    if not is_installed(name):
        raise BackendError(f"{name} is not installed: {INSTALL[name]}")
    try:
        if name == TENSORRT_RTX and name not in sys.modules:
            _load_beside_links()
        module = import_module(name)
        version = str(module.__version__)
    except (ImportError, OSError, AttributeError) as error:
        raise BackendError(f"{name} cannot be imported ({error}): {INSTALL[name]}") from error
    if name == TENSORRT and tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TENSORRT:
        oldest = ".".join(map(str, OLDEST_TENSORRT))
        raise BackendError(f"TensorRT {version} is too old, {oldest} or later is needed: {INSTALL[name]} --upgrade")
    return Flavor(name, version, module)


def is_installed(name: str) -> bool:
    """Whether the package is there, without importing it."""
    return find_spec(name) is not None


@cache
def find_gpu() -> Gpu | None:
    """The GPU that CUDA takes first, or None where there is no driver or no device."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
    number_to_write = ctypes.POINTER(ctypes.c_int)
    driver.cuInit.argtypes = (ctypes.c_uint,)
    driver.cuDeviceGetCount.argtypes = (number_to_write,)
    driver.cuDeviceGet.argtypes = (number_to_write, ctypes.c_int)
    driver.cuDeviceGetName.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_int)
    driver.cuDeviceGetAttribute.argtypes = (number_to_write, ctypes.c_int, ctypes.c_int)
    count, device = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return None
    name, numbers = ctypes.create_string_buffer(256), []
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, len(name), device):
        return None
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        number = ctypes.c_int(0)
        if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
            return None
        numbers.append(number.value)
    return Gpu(name.value.decode(errors="replace"), ".".join(map(str, numbers)))


def _load_beside_links() -> None:
    """See the module's text. Does nothing where the libraries are named otherwise, as on Windows or in an SDK."""
    package = find_spec("tensorrt_rtx_libs")
    for folder in (package and package.submodule_search_locations) or ():
        parser, library = (Path(folder, f"libtensorrt_{name}.so.1") for name in ("onnxparser_rtx", "rtx"))
        if not (parser.is_file() and library.is_file()) or Path(folder, "libtensorrt_rtx.so").exists():
            continue
        links = _links()
        for source, name in ((library, library.name), (library, "libtensorrt_rtx.so"), (parser, parser.name)):
            (links / name).symlink_to(source)
        for name in (library.name, parser.name):
            ctypes.CDLL(str(links / name))


def _links() -> Path:
    """A folder only this user may write to; gone when the process ends."""
    _keep.append(tempfile.TemporaryDirectory(prefix="glip-export-"))
    return Path(_keep[-1].name)


_keep: list[tempfile.TemporaryDirectory[str]] = []  # its folder goes with it
