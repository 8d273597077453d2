"""The plugins' CUDA kernels: compiled, loaded into a CUDA context, launched on a stream.

Imports without CUDA; compiling needs NVRTC, `KernelModule` a device and its driver.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from glip_export.errors import BackendError
from glip_export.trt.bi_attention_launches import (
    BiAttentionSizes,
    image_reads_launches,
    text_reads_launches,
    text_reads_workspace_bytes,
)
from glip_export.trt.candidates_launches import (
    CandidateLevel,
    CandidateSizes,
    candidates_launches,
    candidates_workspace_bytes,
)
from glip_export.trt.dyconv_launches import DyConvSizes, dyconv_launches, dyconv_workspace_bytes
from glip_export.trt.launches import Launch, im2col_launches, nms_launches, nms_workspace_bytes
from glip_export.trt.norm_launches import add_norm_launches
from glip_export.trt.nvrtc import INSTALL, compile_cubin
from glip_export.trt.window_launches import WindowSizes, window_attention_launches

__all__ = [
    "BiAttentionSizes",
    "CandidateLevel",
    "CandidateSizes",
    "DyConvSizes",
    "KernelModule",
    "Launch",
    "WindowSizes",
    "add_norm_launches",
    "candidates_launches",
    "candidates_workspace_bytes",
    "compile_cubin",
    "dyconv_launches",
    "dyconv_workspace_bytes",
    "im2col_launches",
    "image_reads_launches",
    "nms_launches",
    "nms_workspace_bytes",
    "text_reads_launches",
    "text_reads_workspace_bytes",
    "window_attention_launches",
]

DEFAULT_SHARED_BYTES = 48 << 10  # a block may have more only if its kernel was told


class KernelModule:
    """The kernels, compiled for the device of the calling thread's CUDA context and loaded into that context.

    Raises BackendError without cuda-bindings, driver or context, or if the driver refuses the kernels.
    """

    _loaded: dict[int, KernelModule] = {}  # noqa: RUF012 - shared on purpose: one a context

    def __init__(self) -> None:
        self._driver = _import_driver()
        device = self._call(self._driver.cuCtxGetDevice)
        attribute = self._driver.CUdevice_attribute
        major, minor = (
            self._call(self._driver.cuDeviceGetAttribute, wanted, device)
            for wanted in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        cubin = compile_cubin((major, minor))
        try:
            self._module = self._call(self._driver.cuModuleLoadData, cubin)
        except _CudaError as error:
            raise BackendError(
                f"the driver refuses the kernels that NVRTC compiled ({error}): update the NVIDIA driver, "
                "or install the CUDA packages of the driver's own major version"
            ) from error
        self._functions: dict[str, Any] = {}
        self._shared_bytes: dict[str, int] = {}  # that a function was told, above the default

    @classmethod
    def current(cls) -> KernelModule:
        """The module of the calling thread's CUDA context; loaded at the first call, so not while a graph is captured.

        Raises BackendError as the constructor, and if no context is current.
        """
        driver = _import_driver()
        _checked(driver, driver.cuInit, 0)
        context = _checked(driver, driver.cuCtxGetCurrent)
        if int(context) == 0:
            raise BackendError("no CUDA context is current: make one (cuDevicePrimaryCtxRetain) before the kernels")
        identity = int(_checked(driver, driver.cuCtxGetId, context))  # unlike its address, never used again
        if identity not in cls._loaded:
            cls._loaded[identity] = cls()
        return cls._loaded[identity]

    def launch(self, launches: Sequence[Launch], stream_handle: int) -> None:
        """Enqueue the launches in order on a CUDA stream (a cudaStream_t as a number; 0 is the default stream).

        Launches that hold arrays are waited for, so that none goes before the stream has passed its kernel.
        """
        stream = self._driver.CUstream(stream_handle)
        for launch in launches:
            pointers = launch.argument_pointers()
            self._call(
                self._driver.cuLaunchKernel,
                self._function(launch.kernel, launch.shared_bytes),
                *launch.grid,
                *launch.block,
                launch.shared_bytes,
                stream,
                ctypes.addressof(pointers),  # held by `pointers`; the driver copies them before it returns
                0,
            )
        if any(launch.holds_memory for launch in launches):
            self._call(self._driver.cuStreamSynchronize, stream)

    def _function(self, kernel: str, shared_bytes: int) -> Any:
        if kernel not in self._functions:
            self._functions[kernel] = self._call(self._driver.cuModuleGetFunction, self._module, kernel.encode())
        if shared_bytes > self._shared_bytes.get(kernel, DEFAULT_SHARED_BYTES):
            wanted = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._call(self._driver.cuFuncSetAttribute, self._functions[kernel], wanted, shared_bytes)
            self._shared_bytes[kernel] = shared_bytes
        return self._functions[kernel]

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return _checked(self._driver, function, *arguments)


class _CudaError(BackendError):
    """A call of the CUDA driver that failed."""


def _checked(driver: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of a call of cuda.bindings.driver, which returns the error code before it."""
    try:
        code, *values = function(*arguments)
    except RuntimeError as error:  # the bindings found no libcuda
        raise BackendError(f"no NVIDIA driver on this machine: {error}") from error
    if code != driver.CUresult.CUDA_SUCCESS:
        raise _CudaError(f"{function.__name__}: {code.name}")
    return values[0] if values else None


def _import_driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise BackendError(f"the CUDA kernels need cuda-bindings ({error}): {INSTALL}") from error
    return driver
