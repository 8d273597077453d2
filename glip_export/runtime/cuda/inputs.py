"""The inputs of every run: bound where they are on the device, or brought there through buffers that stay."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from glip_export.errors import BackendError
from glip_export.graphs.contracts import LEVELS, VISION_BACKBONE, GraphSpec, TensorSpec
from glip_export.runtime.cuda.arrays import DeviceArray, ForeignArray, JoinedArrays, foreign_array, is_on_device
from glip_export.runtime.cuda.pictures import ImageSlot, Pictures
from glip_export.runtime.cuda.pool import Pool
from glip_export.runtime.cuda.profiles import Shape
from glip_export.runtime.cuda.staging import InputSlot

IMAGES = VISION_BACKBONE.inputs[0]


class Inputs:
    """A slot for each input, and two for pictures, which are copied on a stream of their own.

    Its calls need the driver's context to be current.
    """

    def __init__(self, pool: Pool, stream: int) -> None:
        self._pool = pool
        self._stream = stream  # of the runs
        self._copy_stream = pool.driver.new_stream()
        self._slots: dict[tuple[str, str], InputSlot] = {}
        self._image_slots = deque((ImageSlot(pool), ImageSlot(pool)))  # the next to be filled first
        # Slots filled and not yet read, and with what.
        self._ahead: dict[int, tuple[np.ndarray | Pictures, ImageSlot]] = {}
        self._used: list[InputSlot] = []

    def prefetch(self, images: np.ndarray | Pictures) -> None:
        """Starts the copy of pictures that `bind` is given later, as the very same array."""
        _check_host(VISION_BACKBONE, IMAGES, images)
        self._fill(images)

    def bind(self, spec: GraphSpec, arrays: tuple[Any, ...]) -> dict[str, tuple[int, Shape]]:
        """Each input's address and shape for a run that is put on the stream next; call `done` after it.

        Raises BackendError for an array of another dtype, of another device or in the wrong order.
        """
        self._used = []
        named = zip(spec.inputs, arrays, strict=True)
        return {tensor.name: (self._bind(spec, tensor, array), tuple(array.shape)) for tensor, array in named}

    def done(self) -> None:
        """The run that reads them is on the stream."""
        for slot in self._used:
            slot.mark_consumed(self._stream)

    def _bind(self, spec: GraphSpec, tensor: TensorSpec, array: Any) -> int:
        if own := self._own(array):
            _check(spec, tensor, array)
            if tensor.name in LEVELS and array is own[0] and not array.pool.is_kept:
                return own[0].pointer
            # What is kept lies anywhere: copied, it comes to where the last run found its own, as CUDA graphs want it.
            slot = self._slot(spec, tensor)
            slot.load_own(own, self._stream)
        elif is_on_device(array):
            foreign = foreign_array(array, self._stream, self._pool.driver.dlpack_device)
            _check(spec, tensor, foreign)
            slot = self._next_image_slot() if tensor is IMAGES else self._slot(spec, tensor)
            slot.load_device(foreign, self._stream)
        else:
            _check_host(spec, tensor, array)
            slot = self._load_host(spec, tensor, array)
        self._used.append(slot)
        return slot.pointer

    def _own(self, array: Any) -> tuple[DeviceArray, ...]:
        """The arrays of this session's own that it is made of; () for any other."""
        parts = array.parts if isinstance(array, JoinedArrays) else (array,)
        is_own = all(isinstance(part, DeviceArray) and part.pool in (self._pool, self._pool.kept) for part in parts)
        return parts if is_own else ()

    def _load_host(self, spec: GraphSpec, tensor: TensorSpec, array: np.ndarray | Pictures) -> InputSlot:
        if isinstance(array, np.ndarray) and tensor is not IMAGES:
            slot = self._slot(spec, tensor)
            slot.load_host(array, self._stream)
            return slot
        slot = next((slot for images, slot in self._ahead.values() if images is array), None) or self._fill(array)
        del self._ahead[id(slot)]
        slot.await_copy(self._stream)
        return slot

    def _fill(self, images: np.ndarray | Pictures) -> ImageSlot:
        slot = self._next_image_slot()
        slot.load_images(images, self._copy_stream)
        self._ahead[id(slot)] = images, slot
        return slot

    def _next_image_slot(self) -> ImageSlot:
        slot = self._image_slots[0]
        self._image_slots.rotate(1)
        self._ahead.pop(id(slot), None)
        return slot

    def _slot(self, spec: GraphSpec, tensor: TensorSpec) -> InputSlot:
        key = spec.name, tensor.name
        if key not in self._slots:
            self._slots[key] = InputSlot(self._pool)
        return self._slots[key]


def _check_host(spec: GraphSpec, tensor: TensorSpec, array: Any) -> None:
    if not (isinstance(array, np.ndarray) or (isinstance(array, Pictures) and tensor is IMAGES)):
        raise BackendError(
            f"{spec.name}: {tensor.name} is a {type(array).__name__}: give a NumPy array, or one on the GPU"
        )
    _check(spec, tensor, array)


def _check(spec: GraphSpec, tensor: TensorSpec, array: np.ndarray | Pictures | DeviceArray | ForeignArray) -> None:
    if array.dtype != tensor.dtype:
        raise BackendError(f"{spec.name}: {tensor.name} is {array.dtype} and should be {tensor.dtype}")
