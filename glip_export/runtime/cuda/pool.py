"""Device memory that is used again: it grows to what is needed and gives nothing back before `trim`."""

from __future__ import annotations

import weakref
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable

from glip_export.runtime.cuda.driver import Driver
from glip_export.runtime.cuda.errors import CudaError

SMALL, SMALL_STEP, STEP = 1 << 20, 512, 2 << 20  # bytes


def rounded_size(size: int) -> int:
    """The block that holds `size` bytes: in steps of 512 bytes up to 1 MiB, of 2 MiB above, so that shapes share."""
    step = SMALL_STEP if size <= SMALL else STEP
    return max(-(-size // step), 1) * step


class Buffer:
    """A block of the pool; it goes back when nothing refers to it any more, in whatever thread."""

    def __init__(self, pointer: int, size: int, pool: Pool) -> None:
        self.pointer = pointer
        self.size = size
        self.exported = False  # another library has seen it: its streams may still read it when it comes back
        self._pool = pool  # which lives as long as its blocks

    def __del__(self) -> None:
        # Only an append, which is atomic: the collector may come at any moment, in the middle of `take` too.
        self._pool.returned.append((self.size, self.pointer, self.exported))


class Pool:
    """Blocks for use in the order of one stream: one that comes back may be given away at once.

    Its calls need the driver's context to be current.
    """

    def __init__(self, driver: Driver, runs: Pool | None = None) -> None:
        """runs: the pool that this one is the `kept` of."""
        self.driver = driver
        self.is_kept = runs is not None
        self.reclaim: Callable[[], None] | None = None  # has another library give back memory that it only holds
        self._runs = None if runs is None else weakref.ref(runs)
        self._allocated = 0
        self._free: list[tuple[int, int, bool]] = []  # size, pointer, exported; rising
        self.returned: deque[tuple[int, int, bool]] = deque()
        self._kept: Pool | None = None
        weakref.finalize(self, _free_all, driver, self._free, self.returned).atexit = False

    @property
    def allocated(self) -> int:
        """Bytes, those in use and those that wait, kept ones too."""
        return self._allocated + (self._kept.allocated if self._kept else 0)

    @property
    def kept(self) -> Pool:
        """The pool of what outlives the run that made it: another one in the order of the same stream, or this one.

        Apart, so that a run's own memory stays where it was, as CUDA graphs want it, whatever is kept or let go of.
        """
        if self.is_kept:
            return self
        self._kept = self._kept or Pool(self.driver, runs=self)
        return self._kept

    def take(self, size: int) -> Buffer:
        """A block of at least `size` bytes: the smallest that waits, if not twice what is needed, else a new one.

        Raises CudaError if the device's memory is full even after `trim`, of both pools, and `reclaim`.
        """
        self._collect()
        needed = rounded_size(size)
        place = bisect_left(self._free, (needed, 0, False))
        if place < len(self._free) and self._free[place][0] <= 2 * needed:
            found, pointer, exported = self._free.pop(place)
            if exported:
                self.driver.synchronize_all()
            return Buffer(pointer, found, self)
        return Buffer(self._allocate(needed), needed, self)

    def trim(self) -> int:
        """Gives the blocks that wait back to the device; returns their bytes."""
        self._collect()
        if self._free:
            self.driver.synchronize_all()
        freed = sum(size for size, _, _ in self._free)
        for _, pointer, _ in self._free:
            self.driver.free(pointer)
        self._free.clear()
        self._allocated -= freed
        return freed + (self._kept.trim() if self._kept else 0)

    def _collect(self) -> None:
        while self.returned:
            insort(self._free, self.returned.popleft())

    def _allocate(self, size: int) -> int:
        try:
            pointer = self.driver.allocate(size)
        except CudaError as error:
            if error.code != "CUDA_ERROR_OUT_OF_MEMORY":
                raise
            all_of_it = (self._runs and self._runs()) or self
            all_of_it.trim()
            if all_of_it.reclaim is not None:
                all_of_it.reclaim()
            pointer = self.driver.allocate(size)
        self._allocated += size
        return pointer


def _free_all(driver: Driver, free: list[tuple[int, int, bool]], returned: deque[tuple[int, int, bool]]) -> None:
    with driver.active():
        for _, pointer, _ in (*free, *returned):
            driver.free(pointer)
    free.clear()
    returned.clear()
