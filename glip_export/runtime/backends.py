"""The backends by name; each is imported only when it is opened.

A backend's word is NAME, or NAME:PRECISION where it offers several (of onnxruntime NAME:PROVIDER[:PRECISION]); `auto`
takes the fastest that works here and computes in the bundle's own precision; `auto:bf16` and `auto:fp16` in that
precision, where something here has it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.processes import thread_count
from glip_export.runtime.session import Session
from glip_export.trt.gpus import rtx_serves

if TYPE_CHECKING:
    from glip_export.runtime.cuda.driver import Driver

log = logging.getLogger(__name__)

AUTO = "auto"
AUTO_PRECISIONS = ("bf16", "fp16")  # that may be asked for; none is an error where only fp32 works


def open_session(
    bundle: Bundle, backend: str = "onnxruntime", threads: int | None = None, weights: Path | None = None
) -> Session:
    """The bundle's three graphs on a backend: one of BACKENDS, NAME:PRECISION (openvino:bf16), or auto.

    What auto takes, and what it passed by, is logged (INFO) and the session's `name`.
    threads: CPU threads, no more than the cores that this process may use (GlipExportWarning); by default those, or the
    backend's own choice where nothing limits them. weights: for torch, where the checkpoint is now, if not
    where the manifest says. Raises BackendError for an unknown backend or one that cannot run here.
    """
    threads = thread_count(threads, stacklevel=3)  # the caller of Detector.open
    if backend in AUTO_WORDS:
        return _open_first(bundle, threads, backend)
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


def automatic(bundle: Bundle, word: str = AUTO) -> tuple[str, str]:
    """What auto would take, without loading it, and why: "openvino", "the fastest here; no engines for ..."."""
    passed: list[str] = []
    for backend, worth_trying in _candidates(word):
        if worth_trying(bundle) and find_spec(backend.partition(":")[0]):
            return backend, _why(passed)
        passed.append(backend)
    raise BackendError("onnxruntime is not installed: pip install 'glip-export'")


def available_backends(bundle: Bundle | None = None) -> tuple[str, ...]:
    """The words of the backends, each precision apart, that are installed and that this machine can run.

    With a bundle only those that can run it: the TensorRT backends need engines built in it.
    """
    words: list[str] = []
    for name, backend in _BACKENDS.items():
        try:
            words += [f"{name}:{precision}" if precision else name for precision in backend.usable(bundle)]
        except ImportError:
            continue
    return tuple(words)


@dataclass(frozen=True)
class _Backend:
    """How a backend is opened, its package, and what it offers."""

    open: Callable[[Bundle, int | None, Path | None, str], Session]  # the last: its precision, "" for the default
    usable: Callable[[Bundle | None], tuple[str, ...]]  # the precisions that work, "" for the default; or ImportError
    package: str  # what pip installs it with
    precisions: tuple[str, ...] = ()  # or providers


def _open_torch(bundle: Bundle, threads: int | None, weights: Path | None, precision: str) -> Session:
    device, _, precision = precision.partition(":")
    if device == "cuda":
        from glip_export.runtime.torch_cuda.session import TorchCudaSession, options_of

        return TorchCudaSession(bundle, **options_of(precision))
    from glip_export.runtime.torch_session import TorchSession, load_reference

    return TorchSession(load_reference(bundle, weights), threads)


def _torch_usable(bundle: Bundle | None) -> tuple[str, ...]:
    import torch

    from glip_export.runtime.cuda.driver import driver_module

    try:
        driver_module()
    except BackendError:
        return ("",)
    # Not cuda:compiled, which compiles for minutes at each new size, nor cuda:fused, which nobody has measured.
    return ("", "cuda", "cuda:fp32", "cuda:bf16") if torch.cuda.is_available() else ("",)


def _open_onnxruntime(bundle: Bundle, threads: int | None, weights: Path | None, precision: str) -> Session:
    from glip_export.runtime.onnxruntime_providers import CPU, CUDA, ON_DEVICE, has_cuda, split_word
    from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession

    provider, _ = split_word(precision or (CUDA if has_cuda() else CPU))
    driver = _cuda_driver() if provider in ON_DEVICE else None
    if driver is not None:
        from glip_export.runtime.onnxruntime_cuda_session import OnnxRuntimeCudaSession

        try:
            return OnnxRuntimeCudaSession(bundle, threads, precision or CUDA, driver=driver)
        except BackendError:
            if precision:  # else nobody asked for CUDA, and the CPU will do
                raise
    return OnnxRuntimeSession(bundle, threads, precision)


def _cuda_driver() -> Driver | None:
    """None where the package is missing: then ONNX Runtime's CUDA gives features back to the host between graphs."""
    from glip_export.runtime.cuda.driver import CudaDriver

    try:
        return CudaDriver()
    except BackendError as error:
        log.info("features go through the host's memory: %s", error)
        return None


def _onnxruntime_usable(bundle: Bundle | None) -> tuple[str, ...]:
    from glip_export.runtime.onnxruntime_providers import CPU, CUDA, usable_words

    words = usable_words()  # the default is the CPU, or CUDA where it works
    return ("", *(word for word in words if word != (CUDA if CUDA in words else CPU)))


def _open_openvino(bundle: Bundle, threads: int | None, weights: Path | None, precision: str) -> Session:
    from glip_export.runtime.openvino_session import OpenVinoSession

    return OpenVinoSession(bundle, threads, precision or "fp32")


def _openvino_usable(bundle: Bundle | None) -> tuple[str, ...]:
    from glip_export.runtime.openvino_session import supports_bf16

    return ("", "bf16") if supports_bf16() else ("",)


def _open_tensorrt(bundle: Bundle, threads: int | None, weights: Path | None, precision: str) -> Session:
    from glip_export.runtime.tensorrt_session import TensorRtSession

    return TensorRtSession(bundle, "tensorrt", precision)


def _open_tensorrt_rtx(bundle: Bundle, threads: int | None, weights: Path | None, precision: str) -> Session:
    from glip_export.runtime.tensorrt_session import TensorRtSession

    return TensorRtSession(bundle, "tensorrt_rtx", precision)


def _tensorrt_usable(bundle: Bundle | None, flavor: str = "tensorrt") -> tuple[str, ...]:
    from glip_export.runtime.cuda.driver import driver_module
    from glip_export.trt.flavor import find_gpu, is_installed

    try:
        driver_module()
    except BackendError:
        return ()
    gpu = find_gpu()
    if not is_installed(flavor) or gpu is None:
        return ()
    if bundle is None:
        return ("",) if flavor != "tensorrt_rtx" or rtx_serves(gpu) else ()
    from glip_export.runtime.tensorrt_session import built_precisions, named_targets

    built = built_precisions(bundle, flavor)
    if flavor != "tensorrt_rtx":
        return built
    return tuple(word for word in built if rtx_serves(gpu, named_targets(bundle, flavor, word)))


def _tensorrt_rtx_usable(bundle: Bundle | None) -> tuple[str, ...]:
    return _tensorrt_usable(bundle, "tensorrt_rtx")


_PROVIDERS = ("cpu", "cuda", "cuda:fp32", "cuda:fp16", "tensorrt", "rtx")  # onnxruntime_providers.words
_TORCH_DEVICES = (
    *("cuda", "cuda:fp16", "cuda:fp32", "cuda:bf16", "cuda:compiled"),
    *("cuda:fused", "cuda:fp16:fused", "cuda:fp32:fused"),
)
_BACKENDS = {
    "torch": _Backend(_open_torch, _torch_usable, "glip-export[export]", _TORCH_DEVICES),
    "onnxruntime": _Backend(_open_onnxruntime, _onnxruntime_usable, "glip-export", _PROVIDERS),
    "openvino": _Backend(_open_openvino, _openvino_usable, "glip-export[openvino]", ("fp32", "bf16")),
    "tensorrt": _Backend(_open_tensorrt, _tensorrt_usable, "glip-export[cuda]", ("fp16", "fp32", "bf16")),
    "tensorrt_rtx": _Backend(_open_tensorrt_rtx, _tensorrt_rtx_usable, "glip-export[cuda]", ("fp16", "fp32", "bf16")),
}
BACKENDS = tuple(_BACKENDS)


AUTO_WORDS = (AUTO, *(f"{AUTO}:{precision}" for precision in AUTO_PRECISIONS))


def _open_first(bundle: Bundle, threads: int | None, word: str) -> Session:
    passed, problems = [], []
    for backend, worth_trying in _candidates(word):
        if not worth_trying(bundle):
            passed.append(backend)
            continue
        try:
            session = open_session(bundle, backend, threads)
        except BackendError as error:
            problems.append(str(error))
        else:
            log.info("%s takes %s: %s", word, session.name, "; ".join([_why(passed), *problems]))
            return session
    raise BackendError(f"no backend can run {bundle.path} here: {'; '.join(problems)}")


def _candidates(word: str) -> tuple[tuple[str, Callable[[Bundle], bool]], ...]:
    """What is tried, in turn: of a precision asked for those that have it on a GPU, then on the CPU, before fp32."""
    precision = word.partition(":")[2]
    on_cpu = next(place for place, (backend, _) in enumerate(_FASTEST_FIRST) if backend in _ON_CPU)
    gpu, cpu = (
        tuple((backend, _can(backend)) for backend in _LOWER.get(precision, {}).get(where, ())) for where in _WHERE
    )
    return (*gpu, *_FASTEST_FIRST[:on_cpu], *cpu, *_FASTEST_FIRST[on_cpu:])


def _why(passed: list[str]) -> str:
    reasons = dict.fromkeys(_MISSING[backend] for backend in passed)
    return "; ".join(["the fastest that is exact enough and works here", *reasons])


def _can(backend: str) -> Callable[[Bundle], bool]:
    name, _, precision = backend.partition(":")

    def usable(bundle: Bundle) -> bool:
        if "cuda" in precision or name.startswith("tensorrt"):
            from glip_export.trt.flavor import find_gpu

            if find_gpu() is None:  # before PyTorch is imported, which takes seconds
                return False
        try:
            return precision in _BACKENDS[name].usable(bundle)
        except ImportError:
            return False

    return usable


def _has_engines(flavor: str) -> Callable[[Bundle], bool]:
    return lambda bundle: bool(_tensorrt_usable(bundle, flavor))


def _has_cuda(bundle: Bundle) -> bool:
    from glip_export.runtime.onnxruntime_providers import has_cuda

    return has_cuda()


def _always(bundle: Bundle) -> bool:
    return True


# What `auto` tries, in turn; none compiles for minutes. Beside built engines fp32 only: who takes a lower precision
# should have chosen it, as who built engines in fp16 or made an int8 bundle did.
_FASTEST_FIRST: tuple[tuple[str, Callable[[Bundle], bool]], ...] = (
    ("tensorrt", _has_engines("tensorrt")),
    ("tensorrt_rtx", _has_engines("tensorrt_rtx")),
    ("onnxruntime:cuda", _has_cuda),
    ("torch:cuda:fp32", _can("torch:cuda:fp32")),
    ("openvino", _always),
    ("onnxruntime", _always),
)
_ON_CPU = ("openvino", "onnxruntime")
_WHERE = ("gpu", "cpu")
_LOWER: dict[str, dict[str, tuple[str, ...]]] = {
    "bf16": {"gpu": ("tensorrt:bf16", "tensorrt_rtx:bf16", "torch:cuda:bf16"), "cpu": ("openvino:bf16",)},
    "fp16": {"gpu": ("tensorrt:fp16", "tensorrt_rtx:fp16", "onnxruntime:cuda:fp16", "torch:cuda")},
}
_NO_ENGINES, _NO_CUDA, _NO_TORCH = "no engines for a GPU here", "no CUDA in ONNX Runtime", "no CUDA in PyTorch"
_MISSING = {
    **dict.fromkeys(("tensorrt", "tensorrt_rtx"), _NO_ENGINES),
    **dict.fromkeys(
        (f"tensorrt{rtx}:{precision}" for rtx in ("", "_rtx") for precision in AUTO_PRECISIONS), _NO_ENGINES
    ),
    **dict.fromkeys(("onnxruntime:cuda", "onnxruntime:cuda:fp16"), _NO_CUDA),
    **dict.fromkeys(("torch:cuda", "torch:cuda:fp32", "torch:cuda:bf16"), _NO_TORCH),
    "openvino": "no OpenVINO",
    "onnxruntime": "no ONNX Runtime",
    "openvino:bf16": "neither AVX2 nor AVX-512, or no C++ compiler",
}
