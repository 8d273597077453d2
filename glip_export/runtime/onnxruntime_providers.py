"""ONNX Runtime's execution providers by word: what each needs, its options, and whether it is the one that runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

import onnxruntime

from glip_export.bundle import BakedFile, Bundle
from glip_export.errors import BackendError
from glip_export.runtime.cache import cache_folder
from glip_export.runtime.onnxruntime_graphs import made_key
from glip_export.runtime.session import one_line
from glip_export.trt.flavor import find_gpu, is_installed
from glip_export.trt.gpus import RTX_DEFAULT, cuda_doubt, cuda_serves, rtx_doubt, rtx_refusal, rtx_serves, targets_words

log = logging.getLogger(__name__)

CPU, CUDA, TENSORRT, RTX = "cpu", "cuda", "tensorrt", "rtx"
PROVIDERS = {
    CPU: "CPUExecutionProvider",
    CUDA: "CUDAExecutionProvider",
    TENSORRT: "TensorrtExecutionProvider",
    RTX: "NvTensorRTRTXExecutionProvider",
}
PRECISIONS = {CUDA: ("fp32", "fp16")}  # of others only the bundle's own
ON_DEVICE = (CUDA, TENSORRT)  # take memory and a stream of our own
NATIVE = (TENSORRT, RTX)  # run the fusion head in TensorRT's own operators
_AFTER = {CPU: (), CUDA: (CPU,), TENSORRT: (CUDA, CPU), RTX: (CPU,)}  # what takes the nodes that it does not
_RTX_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"  # a provider that is loaded into the plain onnxruntime
_NEEDS = {
    CUDA: "it needs CUDA and cuDNN: pip install 'onnxruntime-gpu[cuda,cudnn]'",
    TENSORRT: "it needs TensorRT beside CUDA and cuDNN: pip install tensorrt 'onnxruntime-gpu[cuda,cudnn]'",
    RTX: f"it needs an NVIDIA GPU of {targets_words(RTX_DEFAULT)}, and its driver",
}


def usable_providers() -> tuple[str, ...]:
    """The words whose providers are installed, cpu first; those of the GPU only where there is one that they serve."""
    available, gpu = onnxruntime.get_available_providers(), find_gpu()
    if gpu is None:
        return (CPU,)
    # tensorrt leaves to cuda what it does not take
    words = [word for word in (CUDA, TENSORRT) if PROVIDERS[word] in available and cuda_serves(gpu)]
    if rtx_serves(gpu) and is_installed(_RTX_PACKAGE):
        words.append(RTX)
    return (CPU, *words)


def words() -> tuple[str, ...]:
    """All that `split_word` takes."""
    return tuple(word for provider in PROVIDERS for word in (provider, *_with_precision(provider)))


def usable_words() -> tuple[str, ...]:
    """Those of `words` that this machine can run, cpu first; cuda:fp32 is cuda, and not said twice."""
    found: list[str] = []
    for provider in usable_providers():
        found.append(provider)
        if is_installed("onnx_ir"):  # which converts
            found += _with_precision(provider)[1:]
    return tuple(found)


def split_word(word: str) -> tuple[str, str]:
    """A provider's word and the precision: cuda:fp16 -> cuda, fp16. Raises BackendError for another."""
    if word not in words():
        raise BackendError(f"ONNX Runtime has no {word!r}: choose one of {', '.join(words())}")
    provider, _, precision = word.partition(":")
    return provider, precision or "fp32"


def session_name(provider: str, precision: str) -> str:
    """The backend's word: onnxruntime, onnxruntime:cuda, onnxruntime:cuda:fp16."""
    parts = ["onnxruntime", *([provider] if provider != CPU else []), *([precision] if precision != "fp32" else [])]
    return ":".join(parts)


def _with_precision(provider: str) -> tuple[str, ...]:
    return tuple(f"{provider}:{precision}" for precision in PRECISIONS.get(provider, ()))


def has_cuda() -> bool:
    """Whether ONNX Runtime was built for CUDA and the driver finds a device that it serves; its name says neither."""
    return CUDA in usable_providers()


def configure(
    word: str, options: Any, bundle: Bundle | BakedFile, device: Mapping[str, str] | None = None
) -> list[Any]:
    """Readies SessionOptions for a provider; returns what InferenceSession takes as `providers`.

    device: options that say on which device and stream CUDA and TensorRT put their work. TensorRT's engines and RTX's
    kernels are kept in the bundle's cache folder. Raises BackendError, with what to install, if the provider is not
    there, or what else to use on a GPU that it cannot serve.
    """
    if word != CPU:
        _check_gpu(word)
    if word == RTX:
        options.add_provider_for_devices(_rtx_devices()[:1], _cache_options(word, bundle))
        return []
    if PROVIDERS[word] not in onnxruntime.get_available_providers():
        raise BackendError(
            f"this ONNX Runtime has no {PROVIDERS[word]}: pip uninstall onnxruntime, "
            "then pip install 'glip-export[gpu]'"
        )
    if word != CPU:
        onnxruntime.preload_dlls()  # CUDA and cuDNN, where pip installed them
    return [(PROVIDERS[name], {**_options(name, bundle), **_on_device(name, device)}) for name in (word, *_AFTER[word])]


def check_active(word: str, active: Sequence[str]) -> None:
    """Raises BackendError unless the provider asked for is the first that a session runs on.

    ONNX Runtime itself says nothing where it cannot load one, and takes the CPU.
    """
    if not active or active[0] != PROVIDERS[word]:
        raise BackendError(
            f"ONNX Runtime {onnxruntime.__version__} did not load its {PROVIDERS[word]}; {_NEEDS.get(word, '')}; "
            "onnxruntime:cpu runs without"
        )


def _check_gpu(word: str) -> None:
    """Raises BackendError for a GPU that the provider has no code for; logs a warning of one that it may not serve."""
    gpu = find_gpu()
    if gpu is None:
        return
    if word == RTX and (why_not := rtx_refusal(gpu)):
        raise BackendError(why_not)
    if doubt := rtx_doubt(gpu) if word == RTX else cuda_doubt(gpu):
        log.warning(doubt)


def _options(word: str, bundle: Bundle | BakedFile) -> dict[str, str]:
    if word == CUDA:
        return {"use_tf32": "0"}  # products of 10 bits are not fp32: boxes would move
    return _cache_options(word, bundle)


def _on_device(word: str, device: Mapping[str, str] | None) -> Mapping[str, str]:
    return device or {} if word in (CUDA, TENSORRT) else {}


def _cache_options(word: str, bundle: Bundle | BakedFile) -> dict[str, str]:
    if word not in (TENSORRT, RTX) or isinstance(bundle, BakedFile):  # which takes neither
        return {}
    folder = cache_folder(bundle, f"onnxruntime-{word}", made_key(bundle))
    if folder is None:
        return {}
    if word == RTX:
        return {"nv_runtime_cache_path": str(folder)}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


@lru_cache(maxsize=1)
def _rtx_devices() -> list[Any]:
    try:
        plugin = import_module(_RTX_PACKAGE)
    except ImportError as error:
        raise BackendError(
            f"onnxruntime:rtx cannot be imported ({error}): pip install onnxruntime-ep-nv-tensorrt-rtx"
        ) from error
    name = plugin.get_ep_name()
    try:
        onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
    except Exception as error:  # onnxruntime's own exceptions share no base
        raise BackendError(f"ONNX Runtime cannot load {PROVIDERS[RTX]}: {one_line(error)}") from error
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if not devices:
        raise BackendError(f"{PROVIDERS[RTX]} finds no GPU; {_NEEDS[RTX]}")
    return devices
