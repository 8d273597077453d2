"""The way of a graph's inputs onto the device and of its outputs back: pinned memory that is used again."""

from __future__ import annotations

import ctypes
import weakref
from math import prod
from typing import Any

import numpy as np

from glip_export.runtime.cuda.arrays import ForeignArray
from glip_export.runtime.cuda.driver import Driver
from glip_export.runtime.cuda.pool import Buffer, Pool, rounded_size


class PinnedMemory:
    """Host memory that the device copies from and to by itself; it only grows."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._block = [0, 0]  # pointer, size
        weakref.finalize(self, _free_pinned, driver, self._block).atexit = False

    def view(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """The memory as an array; what an earlier view held is gone."""
        dtype = np.dtype(dtype)
        used = prod(shape) * dtype.itemsize
        size = rounded_size(used)
        if size > self._block[1]:
            _free_pinned(self._driver, self._block)
            self._block[:] = self._driver.allocate_host(size), size
        raw = (ctypes.c_ubyte * size).from_address(self._block[0])
        return np.ctypeslib.as_array(raw)[:used].view(dtype).reshape(shape)


class InputSlot:
    """The pinned and the device memory of one input of one graph.

    Its device address stays as long as the shape needs no more room, so that a CUDA graph finds it again.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._pinned = PinnedMemory(pool.driver)
        self._buffer: Buffer | None = None
        self._copied = pool.driver.new_event()  # the memory that was copied from may be used again
        self._consumed = pool.driver.new_event()  # the device memory may be overwritten
        self._owner: Any = None  # of what a copy may still be reading
        weakref.finalize(self, _free_events, pool.driver, (self._copied, self._consumed)).atexit = False

    @property
    def pointer(self) -> int:
        assert self._buffer is not None
        return self._buffer.pointer

    def load_host(self, array: np.ndarray, stream: int) -> None:
        """Starts the copy of a NumPy array (read before this returns) on `stream`."""
        driver = self._pool.driver
        driver.synchronize_event(self._copied)
        pinned = self._pinned.view(array.shape, array.dtype)
        np.copyto(pinned, array)
        self._copy(pinned.ctypes.data, array.nbytes, stream)
        self._owner = None

    def load_device(self, array: ForeignArray, stream: int) -> None:
        """Starts the copy of another library's array, which is kept until this slot is used again."""
        driver = self._pool.driver
        if array.stream is not None and array.stream != stream:
            event = driver.new_event()
            driver.record(event, array.stream)
            driver.wait(stream, event)
            driver.free_event(event)
        driver.synchronize_event(self._copied)
        self._copy(array.pointer, array.nbytes, stream)
        self._owner = array

    def await_copy(self, stream: int) -> None:
        """Makes `stream` wait for the copy."""
        self._pool.driver.wait(stream, self._copied)

    def mark_consumed(self, stream: int) -> None:
        """What is on `stream` by now has read the device memory."""
        self._pool.driver.record(self._consumed, stream)

    def _copy(self, source: int, size: int, stream: int) -> None:
        driver = self._pool.driver
        if self._buffer is None or self._buffer.size < size:
            driver.synchronize_all()  # the pool's blocks are free only in the order of its own stream
            self._buffer = None
            self._buffer = self._pool.take(size)
        driver.wait(stream, self._consumed)
        driver.copy(self._buffer.pointer, source, size, stream)
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
            self._driver.copy(views[name].ctypes.data, array.pointer, array.nbytes, stream)
        self._driver.synchronize(stream)
        return {name: view.copy() for name, view in views.items()}


def _free_pinned(driver: Driver, block: list[int]) -> None:
    if block[0]:
        with driver.active():
            driver.free_host(block[0])
        block[:] = 0, 0


def _free_events(driver: Driver, events: tuple[int, ...]) -> None:
    with driver.active():
        for event in events:
            driver.free_event(event)
