"""Arrays in the device's memory: what the sessions give, and what they take from other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from glip_export.errors import BackendError
from glip_export.runtime.cuda import dlpack
from glip_export.runtime.cuda.pool import Buffer, Pool


class DeviceArray:
    """A C-contiguous array in a block of the pool, filled in the order of `stream`.

    NumPy reads it where it is given to NumPy (one copy to the host, after waiting for the stream); torch, CuPy and
    PyCUDA take it where it is, by DLPack or `__cuda_array_interface__`. It is not to be written to.
    """

    def __init__(self, pool: Pool, shape: tuple[int, ...], dtype: Any, stream: int, buffer: Buffer | None = None):
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.stream = stream
        self.buffer = buffer or pool.take(self.nbytes)
        self.pool = pool

    @property
    def pointer(self) -> int:
        return self.buffer.pointer

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """As NumPy's, on a copy on the host."""
        return np.asarray(self)[index]

    def repeat(self, repeats: int, axis: int | None = None) -> DeviceArray:
        """As NumPy's, along a first axis of length 1: one set of text features for every picture of a batch.

        `np.repeat` calls it, so that they need not leave the device.
        """
        if axis != 0 or self.shape[0] != 1:
            raise BackendError(f"a device array of shape {self.shape} is repeated only along a first axis of length 1")
        if repeats == 1:
            return self
        driver = self.pool.driver
        with driver.active():
            result = DeviceArray(self.pool, (repeats, *self.shape[1:]), self.dtype, self.stream)
            for index in range(repeats):
                driver.copy(result.pointer + index * self.nbytes, self.pointer, self.nbytes, self.stream)
        return result

    def rows(self, indices: Sequence[int]) -> DeviceArray:
        """Some along the first axis, copied on the device: to keep, whatever becomes of this array."""
        chosen = [range(len(self))[index] for index in indices]
        size = self.nbytes // max(len(self), 1)
        with self.pool.driver.active():
            made = DeviceArray(self.pool.kept, (len(chosen), *self.shape[1:]), self.dtype, self.stream)
            for place, row in enumerate(chosen):
                self.pool.driver.copy(made.pointer + place * size, self.pointer + row * size, size, self.stream)
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a device array becomes a NumPy array only by a copy")
        result = np.empty(self.shape, self.dtype)
        driver = self.pool.driver
        with driver.active():
            driver.copy(result, self.pointer, self.nbytes, self.stream)
            driver.synchronize(self.stream)
        return result if dtype is None else result.astype(dtype, copy=False)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self.buffer.exported = True
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, True),
            "version": 3,
            "strides": None,
            "stream": self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.pool.driver.dlpack_device

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """stream: the taker's, which is made to wait for ours; None is the legacy default stream, -1 asks for none."""
        self.buffer.exported = True
        if stream != -1:
            driver = self.pool.driver
            with driver.active():
                event = driver.new_event()
                driver.record(event, self.stream)
                driver.wait(stream or LEGACY_STREAM, event)
                driver.free_event(event)  # the driver keeps it until the wait is over
        return dlpack.make_capsule(self, self.pointer, self.shape, self.dtype, self.__dlpack_device__())


class JoinedArrays:
    """Arrays of one session along their first axis, not yet copied: a run brings them together where it reads them."""

    def __init__(self, parts: Sequence[DeviceArray]) -> None:
        self.parts = tuple(parts)
        self.shape = (sum(map(len, parts)), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("device arrays become a NumPy array only by a copy")
        return np.concatenate([np.asarray(part, dtype) for part in self.parts])


LEGACY_STREAM = 1  # CU_STREAM_LEGACY


@dataclass(frozen=True, eq=False)
class ForeignArray:
    """An array of another library on the same device, kept alive by `owner`."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: Any
    stream: int | None = None  # whose work must be waited for; None: the taker's stream waits already

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def is_on_device(array: Any) -> bool:
    """Whether the array says that it lies in a GPU's memory; a torch tensor on the CPU does not."""
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[0]) in (dlpack.CUDA, dlpack.CUDA_MANAGED)
    return hasattr(array, "__cuda_array_interface__")


def foreign_array(array: Any, stream: int, device: tuple[int, int]) -> ForeignArray:
    """An array of torch, CuPy, PyCUDA or another library, where it is.

    By DLPack, where the library makes `stream` wait for its own; else by `__cuda_array_interface__`, whose stream is
    to be waited for. Raises BackendError if it lies on another device or is not C-contiguous.
    """
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        kind, number = (int(part) for part in array.__dlpack_device__())
        if kind != dlpack.CUDA_MANAGED and (kind, number) != device:
            raise BackendError(f"an array lies on device {number} and the session runs on device {device[1]}")
        tensor = dlpack.read_capsule(array.__dlpack__(stream=stream))
        owner = _Lent(tensor)
        _check_contiguous(tensor.shape, tensor.strides)
        return ForeignArray(tensor.pointer, tensor.shape, tensor.dtype, owner)
    interface = array.__cuda_array_interface__
    dtype = np.dtype(interface["typestr"])
    shape = tuple(interface["shape"])
    if interface.get("strides") is not None:
        _check_contiguous(shape, tuple(step // dtype.itemsize for step in interface["strides"]))
    if interface.get("mask") is not None:
        raise BackendError("an array with a mask was given: give one without")
    # No stream means that there is nothing to wait for; but PyCUDA says so of arrays its default stream still fills.
    return ForeignArray(interface["data"][0], shape, dtype, array, interface.get("stream") or LEGACY_STREAM)


def stream_handle(stream: Any) -> int:
    """A stream's address: of an int, a PyCUDA or cuda-core stream, a torch stream or a CuPy stream.

    Raises BackendError for anything else.
    """
    if hasattr(stream, "__cuda_stream__"):
        protocol = stream.__cuda_stream__
        return int((protocol() if callable(protocol) else protocol)[1])
    for attribute in ("handle", "cuda_stream", "ptr"):
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    try:
        return int(stream)
    except (TypeError, ValueError):
        raise BackendError(f"{type(stream).__name__} is no CUDA stream: give its address as an int") from None


class _Lent:
    """Holds a DLPack tensor as long as it lives."""

    def __init__(self, tensor: dlpack.Tensor) -> None:
        self._tensor = tensor

    def __del__(self) -> None:
        self._tensor.release()


def _check_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
    if strides is None:
        return
    expected = 1
    for length, step in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and step != expected:
            raise BackendError(f"an array of shape {shape} on the GPU is not C-contiguous: copy it (.contiguous())")
        expected *= length
