"""How a picture is made the network's input (plugins/kernels/resize_picture.cuh), as data. Needs no CUDA."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from glip_export.trt.launches import MAX_COUNT, MAX_GRID, THREADS, Launch, Memory, checked_pointer, up

WEIGHT_BITS = 22  # of Pillow's weights: 32 less 8 of a byte and 2 of head room


@dataclass(frozen=True)
class ResizeSizes:
    """A picture's size (h, w) as given and resized, and (H, W) that it is padded to.

    Raises ValueError for sizes that the kernels do not take: each is at least 1, the padded one holds the resized.
    """

    given: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    def __post_init__(self) -> None:
        (h, w), (height, width) = self.resized, self.padded
        if min(*self.given, h, w) < 1 or h > height or w > width:
            raise ValueError(f"a picture of {self.given} is not resized to {self.resized} inside {self.padded}")
        largest = 3 * max(self.given[0] * max(self.given[1], w), height * width)
        if largest > MAX_COUNT or max(w, width) > MAX_GRID * THREADS:
            raise ValueError(f"too large to be resized: {self.given} to {self.resized} inside {self.padded}")

    @property
    def across_bytes(self) -> int:
        """Of the picture that is resized in its width alone."""
        return self.given[0] * self.resized[1] * 3


def filter_taps(old: int, new: int) -> int:
    """How many of `old` places the filter of one of `new` places reaches."""
    return 2 * ceil(max(old / new, 1.0)) + 1


@lru_cache(maxsize=32)  # some kilobytes each
def resize_filter(old: int, new: int) -> NDArray[np.int32]:
    """Pillow's antialiased bilinear filter from `old` places to `new`: int32 (1 + filter_taps, new).

    Row 0: the first place that each reads; the others: weights in units of 2**-22, 0 beyond its reach. In double
    precision and the order of Pillow's `precompute_coeffs`, so that they are its own.
    """
    taps = filter_taps(old, new)
    scale = old / new
    support = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int32), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int32), old) - first
    weights = np.zeros((taps, new))
    total = np.zeros(new)
    for tap in range(taps):
        distance = np.abs((tap + first - centre + 0.5) * (1.0 / support))
        weights[tap] = np.where((tap < count) & (distance < 1.0), 1.0 - distance, 0.0)
        total += weights[tap]
    made = np.empty((1 + taps, new), np.int32)
    made[0] = first
    made[1:] = weights / total * (1 << WEIGHT_BITS) + 0.5
    made.flags.writeable = False
    return made


def resize_launches(
    sizes: ResizeSizes,
    bgr: bool,
    picture_ptr: Memory,
    across_filter_ptr: Memory,
    down_filter_ptr: Memory,
    values_ptr: Memory,
    across_ptr: Memory,
    image_ptr: Memory,
) -> list[Launch]:
    """picture (h0, w0, 3) uint8 RGB -> image (3, H, W) float32: resized, normalised, zero beyond the resized size.

    The filters are `resize_filter` of (w0, w) and (h0, h), int32. values (3, 256) float32: what becomes of each byte in
    each output channel. bgr: channels go out in reverse. across: `sizes.across_bytes` of uint8, written on the way.
    Raises ValueError and TypeError as `im2col_launches`.
    """
    (h0, w0), (h, w), (height, width) = sizes.given, sizes.resized, sizes.padded
    across_taps, down_taps = filter_taps(w0, w), filter_taps(h0, h)
    picture = checked_pointer("picture", picture_ptr, np.uint8, h0 * w0 * 3, 1)
    across_filter = checked_pointer("across_filter", across_filter_ptr, np.int32, (1 + across_taps) * w, 4)
    down_filter = checked_pointer("down_filter", down_filter_ptr, np.int32, (1 + down_taps) * h, 4)
    values = checked_pointer("values", values_ptr, np.float32, 3 * 256, 4)
    across = checked_pointer("across", across_ptr, np.uint8, sizes.across_bytes, 1, written=True)
    image = checked_pointer("image", image_ptr, np.float32, 3 * height * width, 4, written=True)
    block = (THREADS, 1, 1)
    return [
        Launch(
            "glip_resize_across",
            (h0, up(w, THREADS), 1),
            block,
            0,
            (picture, across_filter, *map(ctypes.c_int32, (w0, w, across_taps)), across),
        ),
        Launch(
            "glip_resize_down",
            (height, up(width, THREADS), 1),
            block,
            0,
            (
                *(across, down_filter, values),
                *map(ctypes.c_int32, (h0, h, w, down_taps, height, width, bgr)),
                image,
            ),
        ),
    ]
