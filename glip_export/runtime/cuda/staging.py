"""The way of a graph's inputs onto the device and of its outputs back: pinned memory that is used again."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from glip_export.runtime.cuda.arrays import DeviceArray, ForeignArray
from glip_export.runtime.cuda.driver import Driver
from glip_export.runtime.cuda.pool import Buffer, Pool, rounded_size


class PinnedMemory:
    """Host memory that the device copies from and to by itself; it only grows."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._block: np.ndarray | None = None  # bytes

    def view(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """The memory as an array, which keeps it; the same as that of earlier views while it is large enough."""
        dtype = np.dtype(dtype)
        used = prod(shape) * dtype.itemsize
        if self._block is None or used > self._block.nbytes:
            self._block = None
            self._block = _pinned_block(self._driver, rounded_size(used))
        return self._block[:used].view(dtype).reshape(shape)


class DeviceMemory:
    """A block of the pool for a stream that is not the pool's own; it only grows."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._buffer: Buffer | None = None

    def at_least(self, size: int) -> int:
        """The address, the same as before while the block is large enough for `size` bytes."""
        if self._buffer is None or self._buffer.size < size:
            self._pool.driver.synchronize_all()  # the pool's blocks are free only in the order of its own stream
            self._buffer = None
            self._buffer = self._pool.take(size)
        return self._buffer.pointer

    @property
    def pointer(self) -> int:
        assert self._buffer is not None
        return self._buffer.pointer


class InputSlot:
    """The pinned and the device memory of one input of one graph.

    Its device address stays as long as the shape needs no more room, so that a CUDA graph finds it again.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._pinned = PinnedMemory(pool.driver)
        self._memory = DeviceMemory(pool)
        self._copied = pool.driver.new_event()  # the memory that was copied from may be used again
        self._consumed = pool.driver.new_event()  # the device memory may be overwritten
        self._owner: Any = None  # of what a copy may still be reading
        weakref.finalize(self, _end_copies, pool.driver, self._copied, self._consumed).atexit = False

    @property
    def pointer(self) -> int:
        return self._memory.pointer

    def load_host(self, array: np.ndarray, stream: int) -> None:
        """Starts the copy of a NumPy array (read before this returns) on `stream`."""
        driver = self._pool.driver
        driver.synchronize_event(self._copied)
        pinned = self._pinned.view(array.shape, array.dtype)
        np.copyto(pinned, array)
        self._owner = pinned
        self._copy(pinned, array.nbytes, stream)

    def load_own(self, arrays: Sequence[DeviceArray], stream: int) -> None:
        """Copies arrays of the session's own, behind one another, on `stream`, in whose order they are."""
        target = self._memory.at_least(sum(array.nbytes for array in arrays))
        for array in arrays:
            self._pool.driver.copy(target, array.pointer, array.nbytes, stream)
            target += array.nbytes

    def load_device(self, array: ForeignArray, stream: int) -> None:
        """Starts the copy of another library's array, which is kept until this slot is used again."""
        driver = self._pool.driver
        if array.stream is not None and array.stream != stream:
            event = driver.new_event()
            driver.record(event, array.stream)
            driver.wait(stream, event)
            driver.free_event(event)
        driver.synchronize_event(self._copied)
        self._owner = array
        self._copy(array.pointer, array.nbytes, stream)

    def await_copy(self, stream: int) -> None:
        """Makes `stream` wait for the copy."""
        self._pool.driver.wait(stream, self._copied)

    def mark_consumed(self, stream: int) -> None:
        """What is on `stream` by now has read the device memory."""
        self._pool.driver.record(self._consumed, stream)

    def _copy(self, source: int | np.ndarray, size: int, stream: int) -> None:
        driver = self._pool.driver
        target = self._memory.at_least(size)
        driver.wait(stream, self._consumed)
        driver.copy(target, source, size, stream)
        driver.record(self._copied, stream)


class OutputStaging:
    """Brings a graph's outputs to the host, all with one wait."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._pinned: dict[str, PinnedMemory] = {}

    def fetch(self, arrays: dict[str, Any], stream: int) -> dict[str, np.ndarray]:
        """DeviceArrays by name -> NumPy arrays of the caller's own."""
        views = {}
        for name, array in arrays.items():
            memory = self._pinned.setdefault(name, PinnedMemory(self._driver))
            views[name] = memory.view(array.shape, array.dtype)
            self._driver.copy(views[name], array.pointer, array.nbytes, stream)
        self._driver.synchronize(stream)
        return {name: view.copy() for name, view in views.items()}


def _pinned_block(driver: Driver, size: int) -> np.ndarray:
    """Pinned memory as bytes; it is freed when the last view of it goes."""
    pointer = driver.allocate_host(size)
    raw = (ctypes.c_ubyte * size).from_address(pointer)
    weakref.finalize(raw, _free_pinned, driver, pointer).atexit = False
    return np.ctypeslib.as_array(raw)


def _free_pinned(driver: Driver, pointer: int) -> None:
    with driver.active():
        driver.free_host(pointer)


def _end_copies(driver: Driver, copied: int, consumed: int) -> None:
    """Waits for a slot's last copy, before what it reads and writes goes with the slot."""
    with driver.active():
        driver.synchronize_event(copied)
        for event in (copied, consumed):
            driver.free_event(event)
