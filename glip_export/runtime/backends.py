"""The backends by name; each is imported only when it is opened.

A backend's word is NAME, or NAME:PRECISION where it offers several; `auto` takes the fastest that works here.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.runtime.session import Session

AUTO = "auto"


def open_session(
    bundle: Bundle, backend: str = "onnxruntime", threads: int | None = None, weights: Path | None = None
) -> Session:
    """The bundle's three graphs on a backend: one of BACKENDS, NAME:PRECISION (openvino:bf16), or auto.

    threads: CPU threads, the backend's own default if None. weights: for torch, where the checkpoint is now, if not
    where the manifest says. Raises BackendError for an unknown backend or one that cannot run here.
    """
    if backend == AUTO:
        return _open_first(bundle, threads)
    name, colon, precision = backend.partition(":")
    if name not in _BACKENDS:
        raise BackendError(f"there is no backend {name!r}: choose one of {', '.join((AUTO, *BACKENDS))}")
    found = _BACKENDS[name]
    if colon and precision not in found.precisions:
        words = ", ".join((name, *(f"{name}:{offered}" for offered in found.precisions)))
        raise BackendError(f"there is no backend {backend!r}: choose {words}")
    try:
        return found.open(bundle, threads, weights, precision)
    except ImportError as error:
        raise BackendError(f"{name} cannot be imported ({error}): pip install '{found.package}'") from error


def available_backends() -> tuple[str, ...]:
    """The words of the backends, each precision apart, that are installed and that this machine can run."""
    words: list[str] = []
    for name, backend in _BACKENDS.items():
        try:
            words += [f"{name}:{precision}" if precision else name for precision in backend.usable()]
        except ImportError:
            continue
    return tuple(words)


@dataclass(frozen=True)
class _Backend:
    """How a backend is opened, its package, and what it offers."""

    open: Callable[[Bundle, int | None, Path | None, str], Session]  # the last: its precision, "" for the default
    usable: Callable[[], tuple[str, ...]]  # the precisions that work here, "" for the default; may raise ImportError
    package: str  # what pip installs it with
    precisions: tuple[str, ...] = ()


def _open_torch(bundle: Bundle, threads: int | None, weights: Path | None, precision: str) -> Session:
    from glip_export.runtime.torch_session import TorchSession, load_reference

    return TorchSession(load_reference(bundle, weights), threads)


def _torch_usable() -> tuple[str, ...]:
    import torch  # noqa: F401

    return ("",)


def _open_onnxruntime(bundle: Bundle, threads: int | None, weights: Path | None, precision: str) -> Session:
    from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(bundle, threads)


def _onnxruntime_usable() -> tuple[str, ...]:
    import onnxruntime  # noqa: F401

    return ("",)


def _open_openvino(bundle: Bundle, threads: int | None, weights: Path | None, precision: str) -> Session:
    from glip_export.runtime.openvino_session import OpenVinoSession

    return OpenVinoSession(bundle, threads, precision or "fp32")


def _openvino_usable() -> tuple[str, ...]:
    from glip_export.runtime.openvino_session import supports_bf16

    return ("", "bf16") if supports_bf16() else ("",)


_BACKENDS = {
    "torch": _Backend(_open_torch, _torch_usable, "glip-export[export]"),
    "onnxruntime": _Backend(_open_onnxruntime, _onnxruntime_usable, "glip-export"),
    "openvino": _Backend(_open_openvino, _openvino_usable, "glip-export[openvino]", ("fp32", "bf16")),
}
BACKENDS = tuple(_BACKENDS)


def _open_first(bundle: Bundle, threads: int | None) -> Session:
    problems = []
    for backend, worth_trying in _FASTEST_FIRST:
        if worth_trying():
            try:
                return open_session(bundle, backend, threads)
            except BackendError as error:
                problems.append(str(error))
    raise BackendError(f"no backend can run {bundle.path} here: {'; '.join(problems)}")


def _has_cuda() -> bool:
    """Whether ONNX Runtime was built for CUDA and the driver finds a device; the provider's name alone says neither."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return False
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def _always() -> bool:
    return True


# What `auto` tries, in turn. fp32 only: who takes a lower precision should have chosen it.
_FASTEST_FIRST: tuple[tuple[str, Callable[[], bool]], ...] = (
    ("onnxruntime", _has_cuda),
    ("openvino", _always),
    ("onnxruntime", _always),
)
