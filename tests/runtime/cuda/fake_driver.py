"""A CUDA driver on host memory: addresses are real ones, and a stream runs nothing before somebody waits for it.

So a missing wait shows as wrong numbers, a copy out of bounds or out of freed memory as an error. Streams in `eager`
run all they can at once: the other extreme of what a GPU may do.
"""

from __future__ import annotations

import ctypes
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from glip_export.errors import BackendError
from glip_export.runtime.cuda.driver import host_memory
from glip_export.runtime.cuda.errors import CudaError
from glip_export.trt.launches import Launch

if TYPE_CHECKING:
    from plugins.host_kernels import HostKernels

LEGACY_STREAM = 1
ALIGNMENT = 256
ARENA = 1 << 30  # bytes; those that nobody touches cost nothing


class FakeDriver:
    """Implements `glip_export.runtime.cuda.driver.Driver`."""

    def __init__(self, memory: int = 1 << 40, kernels: HostKernels | None = None) -> None:
        self.device, self.name, self.compute_capability = 0, "a fake GPU", (8, 6)
        self.dlpack_device = (1, 0)  # kDLCPU, so that NumPy and torch take the capsules
        self.memory = memory
        self.kernels = kernels  # as C++
        self.arena = np.empty(ARENA, np.uint8)  # what is not used yet
        self.counts: Counter[str] = Counter()
        self.depth = 0  # of `active`
        self.device_blocks: dict[int, np.ndarray] = {}
        self.host_blocks: dict[int, np.ndarray] = {}
        self.freed: list[np.ndarray] = []  # kept, so that no address comes twice
        self.streams: dict[int, deque[Callable[[], None]]] = {LEGACY_STREAM: deque()}
        self.events: dict[int, tuple[int, int] | None] = {}  # the stream and the place in it of the last record
        self.done: Counter[int] = Counter()  # work finished of each stream
        self.eager: set[int] = set()
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.next_handle = 100

    @contextmanager
    def active(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def allocate(self, size: int) -> int:
        self._called("allocate")
        if sum(block.nbytes for block in self.device_blocks.values()) + size > self.memory:
            raise CudaError("CUDA_ERROR_OUT_OF_MEMORY", "cuMemAlloc", f"{size} bytes")
        return self._new_block(self.device_blocks, size)

    def free(self, pointer: int) -> None:
        self._called("free")
        self.synchronize_all()  # as cuMemFree does
        self.freed.append(self.device_blocks.pop(pointer))

    def allocate_host(self, size: int) -> int:
        self._called("allocate_host")
        return self._new_block(self.host_blocks, size)

    def free_host(self, pointer: int) -> None:
        self._called("free_host")  # which need not wait for copies
        self.freed.append(self.host_blocks.pop(pointer))

    def copy(self, to: int | np.ndarray, source: int | np.ndarray, size: int, stream: int) -> None:
        self._called("copy")
        with host_memory(to, size, written=True) as end, host_memory(source, size) as start:
            ours = [(pointer, self._inside(pointer, size)) for pointer in (end, start)]
        assert any(inside for _, inside in ours), "neither end of a copy is memory of the driver"
        pageable = [memory for memory, (_, inside) in zip((to, source), ours, strict=True) if not inside]

        def move(held: list[int | np.ndarray] = pageable) -> None:
            for pointer, inside in ours:  # neither pinned nor device memory may have been freed since
                assert self._inside(pointer, size) == inside
            ctypes.memmove(end, start, size)

        self.put(stream, move)

    def new_stream(self) -> int:
        self._called("new_stream")
        self.streams[self._handle()] = deque()
        return self.next_handle

    def free_stream(self, stream: int) -> None:
        del self.streams[stream]

    def synchronize(self, stream: int) -> None:
        self._called("synchronize")
        self._run(stream, None)

    def synchronize_all(self) -> None:
        for stream in list(self.streams):
            self._run(stream, None)

    def new_event(self) -> int:
        self._called("new_event")
        self.events[self._handle()] = None
        return self.next_handle

    def free_event(self, event: int) -> None:
        del self.events[event]

    def record(self, event: int, stream: int) -> None:
        self._called("record")
        assert stream not in self.capturing
        self.events[event] = stream, self.done[stream] + len(self.streams[stream])

    def wait(self, stream: int, event: int) -> None:
        self._called("wait")
        recorded = self.events[event]
        if recorded is not None and recorded[0] != stream:
            self.put(stream, lambda: self._run(*recorded))

    def synchronize_event(self, event: int) -> None:
        self._called("synchronize_event")
        if (recorded := self.events[event]) is not None:
            self._run(*recorded)

    def begin_capture(self, stream: int) -> None:
        self._called("begin_capture")
        self.capturing[stream] = []

    def end_capture(self, stream: int) -> int:
        self._called("end_capture")
        self.graphs[self._handle()] = self.capturing.pop(stream)
        return self.next_handle

    def launch(self, graph: int, stream: int) -> None:
        self._called("launch")
        for work in self.graphs[graph]:
            self.put(stream, work)

    def load_kernels(self) -> None:
        self._called("load_kernels")
        if self.kernels is None:
            raise BackendError("the fake GPU has no kernels")

    def launch_kernels(self, launches: Sequence[Launch], stream: int) -> None:
        self._called("launch_kernels")
        host = self.kernels
        assert host is not None
        for launch in launches:
            self.put(stream, lambda launch=launch: self._run_kernel(host, launch))

    def _run_kernel(self, host: HostKernels, launch: Launch) -> None:
        for argument in launch.arguments:
            if isinstance(argument, ctypes.c_void_p) and argument.value:
                assert self._inside(argument.value, 1, self.device_blocks), f"{launch.kernel} reads no device memory"
        assert host.launch(launch) == 0

    def free_graph(self, graph: int) -> None:
        self._called("free_graph")
        del self.graphs[graph]

    def put(self, stream: int, work: Callable[[], None]) -> None:
        """What a kernel launch does."""
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            self.streams[stream].append(work)
            if stream in self.eager:
                self._run(stream, None)

    def view(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Device memory as an array."""
        size = int(np.prod(shape)) * dtype.itemsize
        assert self._inside(pointer, size, self.device_blocks), "an engine reads or writes beyond the device's memory"
        raw = (ctypes.c_ubyte * max(size, 1)).from_address(pointer)
        return np.ctypeslib.as_array(raw)[:size].view(dtype).reshape(shape)

    def pending(self) -> int:
        """Work that nobody has waited for yet."""
        return sum(len(queue) for queue in self.streams.values())

    def _run(self, stream: int, until: int | None) -> None:
        queue = self.streams[stream]
        until = self.done[stream] + len(queue) if until is None else until
        while self.done[stream] < until:
            work = queue.popleft()
            self.done[stream] += 1
            work()

    def _called(self, name: str) -> None:
        assert self.depth > 0, f"{name} without the session's context"
        self.counts[name] += 1

    def _new_block(self, blocks: dict[int, np.ndarray], size: int) -> int:
        # Each after the one before: the order of addresses, by which a pool chooses, is the same in every run.
        self.arena = self.arena[-self.arena.ctypes.data % ALIGNMENT :]
        block, self.arena = self.arena[:size], self.arena[size:]
        assert block.nbytes == size, "the fake's memory is too small"
        block[:] = 0xAB
        pointer = block.ctypes.data
        blocks[pointer] = block
        return pointer

    def _inside(self, pointer: int, size: int, *where: dict[int, np.ndarray]) -> bool:
        """Whether it is the driver's memory; an error if it is not wholly."""
        for blocks in where or (self.device_blocks, self.host_blocks):
            for start, block in blocks.items():
                if start <= pointer < start + block.nbytes:
                    assert pointer + size <= start + block.nbytes, "beyond the end of a block"
                    return True
        for block in self.freed:
            start = block.ctypes.data
            assert not start <= pointer < start + block.nbytes, "memory that was freed"
        return False

    def _handle(self) -> int:
        self.next_handle += 1
        return self.next_handle
