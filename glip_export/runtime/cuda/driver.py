"""The CUDA driver's calls that the runtime needs, behind one small class, so that tests can put another in its place.

Pointers, streams, events and graphs are integers. The package is cuda-python: it imports without a driver and has
graph capture, which PyCUDA lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np

from glip_export.addresses import pointer_to
from glip_export.errors import BackendError
from glip_export.runtime.cuda.errors import NO_DRIVER, NO_PACKAGE, CudaError
from glip_export.trt.launches import Launch


class Driver(Protocol):
    """One device's memory, streams, events and graphs. Every call but `active` needs its context: see `active`."""

    device: int
    name: str  # of the GPU
    compute_capability: tuple[int, int]
    dlpack_device: tuple[int, int]  # type and number as DLPack writes them

    def active(self) -> AbstractContextManager[None]:
        """The session's context is the current one inside, and the caller's own again after."""
        ...

    def allocate(self, size: int) -> int: ...
    def free(self, pointer: int) -> None: ...
    def allocate_host(self, size: int) -> int:
        """Pinned memory."""
        ...

    def free_host(self, pointer: int) -> None: ...
    def copy(self, to: int | np.ndarray, source: int | np.ndarray, size: int, stream: int) -> None:
        """Between any two of device, pinned and pageable memory, in the stream's order.

        Memory of the host is an array: one of pageable memory may go when this returns, a view of pinned memory when
        the stream has passed the copy. Raises ValueError for an array of another size, not contiguous or read-only.
        """
        ...

    def new_stream(self) -> int: ...
    def free_stream(self, stream: int) -> None: ...
    def synchronize(self, stream: int) -> None: ...
    def synchronize_all(self) -> None:
        """Waits for everything in the context, other libraries' work included."""
        ...

    def new_event(self) -> int: ...
    def free_event(self, event: int) -> None: ...
    def record(self, event: int, stream: int) -> None: ...
    def wait(self, stream: int, event: int) -> None:
        """What is put on the stream from now on waits for the event's last record; an event never recorded is past."""
        ...

    def synchronize_event(self, event: int) -> None: ...
    def begin_capture(self, stream: int) -> None: ...
    def end_capture(self, stream: int) -> int:
        """The executable graph of what was put on the stream since `begin_capture`, none of which ran."""
        ...

    def launch(self, graph: int, stream: int) -> None: ...
    def load_kernels(self) -> None:
        """Readies our own kernels, which takes seconds at the first time. Raises BackendError where they cannot be."""
        ...

    def launch_kernels(self, launches: Sequence[Launch], stream: int) -> None:
        """Puts our own kernels on the stream, in their order; the memory at their addresses is the caller's to keep."""
        ...

    def free_graph(self, graph: int) -> None: ...


class CudaDriver:
    """The real driver, for one device.

    device: its number; by default that of the thread's current context, else 0. The thread's current context is used
    where there is one on that device (a PyCUDA program's own), else the device's primary context, which torch and
    CuPy share; it is never replaced. Raises BackendError without the package, driver or device.
    """

    def __init__(self, device: int | None = None) -> None:
        self._cuda = cuda = driver_module()
        try:
            self._call("cuInit", 0)
        except RuntimeError as error:  # cuda-python, at its first call, where it finds no libcuda
            raise BackendError(NO_DRIVER) from error
        current = int(self._call("cuCtxGetCurrent"))
        inside = int(self._call("cuCtxGetDevice")) if current else None
        self.device = device if device is not None else inside or 0
        handle = self._call("cuDeviceGet", self.device)
        self._context = current if current and inside == self.device else self._primary(handle)
        self.name = self._call("cuDeviceGetName", 256, handle).split(b"\0")[0].decode(errors="replace")
        major, minor = (
            int(self._call("cuDeviceGetAttribute", attribute, handle))
            for attribute in (
                cuda.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                cuda.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.compute_capability = (major, minor)
        self.dlpack_device = (2, self.device)  # kDLCUDA

    @contextmanager
    def active(self) -> Iterator[None]:
        """See `Driver`."""
        if int(self._call("cuCtxGetCurrent")) == self._context:
            yield
            return
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def allocate(self, size: int) -> int:
        """See `Driver`."""
        return int(self._call("cuMemAlloc", size, detail=f"{size / 1e6:.0f} MB"))

    def free(self, pointer: int) -> None:
        """See `Driver`."""
        self._call("cuMemFree", pointer)

    def allocate_host(self, size: int) -> int:
        """See `Driver`."""
        return int(self._call("cuMemHostAlloc", size, 0, detail=f"{size / 1e6:.0f} MB of pinned memory"))

    def free_host(self, pointer: int) -> None:
        """See `Driver`."""
        self._call("cuMemFreeHost", pointer)

    def copy(self, to: int | np.ndarray, source: int | np.ndarray, size: int, stream: int) -> None:
        """See `Driver`; the direction follows from the addresses."""
        with host_memory(to, size, written=True) as end, host_memory(source, size) as start:
            self._call("cuMemcpyAsync", end, start, size, stream)

    def new_stream(self) -> int:
        """See `Driver`; it does not wait for the legacy default stream."""
        return int(self._call("cuStreamCreate", int(self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def free_stream(self, stream: int) -> None:
        """See `Driver`."""
        self._call("cuStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """See `Driver`."""
        self._call("cuStreamSynchronize", stream)

    def synchronize_all(self) -> None:
        """See `Driver`."""
        self._call("cuCtxSynchronize")

    def new_event(self) -> int:
        """See `Driver`."""
        return int(self._call("cuEventCreate", int(self._cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING)))

    def free_event(self, event: int) -> None:
        """See `Driver`."""
        self._call("cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """See `Driver`."""
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """See `Driver`."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: int) -> None:
        """See `Driver`."""
        self._call("cuEventSynchronize", event)

    def begin_capture(self, stream: int) -> None:
        """See `Driver`; other threads' calls are neither captured nor forbidden meanwhile."""
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        """See `Driver`."""
        captured = self._call("cuStreamEndCapture", stream)
        try:
            return int(self._call("cuGraphInstantiate", captured, 0))
        finally:
            self._call("cuGraphDestroy", captured)

    def launch(self, graph: int, stream: int) -> None:
        """See `Driver`."""
        self._call("cuGraphLaunch", graph, stream)

    def load_kernels(self) -> None:
        """See `Driver`; compiled by NVRTC."""
        from glip_export.trt.kernels import KernelModule

        KernelModule.current()

    def launch_kernels(self, launches: Sequence[Launch], stream: int) -> None:
        """See `Driver`."""
        from glip_export.trt.kernels import KernelModule

        KernelModule.current().launch(launches, stream)

    def free_graph(self, graph: int) -> None:
        """See `Driver`."""
        self._call("cuGraphExecDestroy", graph)

    def _primary(self, handle: Any) -> int:
        # Kept for the process's life: other libraries live in it too.
        return int(self._call("cuDevicePrimaryCtxRetain", handle))

    def _call(self, name: str, *arguments: Any, detail: str = "") -> Any:
        """The call's result; raises CudaError with what it means."""
        error, *results = getattr(self._cuda, name)(*arguments)
        if int(error):
            raise CudaError(error.name, name, detail)
        return results[0] if results else None


@contextmanager
def host_memory(memory: int | np.ndarray, size: int, written: bool = False) -> Iterator[int]:
    """The address of one end of a copy, inside: a device's as it is, or an array's, which is held and was checked."""
    if not isinstance(memory, np.ndarray):
        yield memory
        return
    if memory.nbytes != size:
        raise ValueError(f"an array of {memory.nbytes} bytes is one end of a copy of {size}")
    pointer = pointer_to(memory, written=written)
    yield pointer.value or 0


def driver_module() -> Any:
    """cuda-python's driver; raises BackendError, with what to install, without the package."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise BackendError(NO_PACKAGE) from error
    return driver
