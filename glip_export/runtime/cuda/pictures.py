"""Pictures as bytes that the device resizes, normalises and pads, to the bit as `glip_export.image` does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from glip_export.config import GlipConfig, ImageConfig
from glip_export.errors import BackendError
from glip_export.image import F32, U8, ImageBatch, fitted_shape, normalized_bytes, padded_shape, resize
from glip_export.runtime.cuda.pool import Pool
from glip_export.runtime.cuda.staging import DeviceMemory, InputSlot
from glip_export.runtime.session import Session
from glip_export.trt.launches import Launch, Part, workspace_begins, workspace_bytes
from glip_export.trt.resize_launches import ResizeSizes, resize_filter, resize_launches

MAX_DEVICE_PIXELS = 1 << 24  # of a picture; the host resizes larger ones, which would take long to copy


@dataclass(frozen=True, eq=False)
class Pictures:
    """B pictures in the place of images (B, 3, H, W): the session's own stream makes these of them.

    They are copied as bytes: resized ones are a quarter of what the images take.
    """

    pixels: tuple[U8, ...]  # (h, w, 3) RGB each, as given or resized already
    sizes: tuple[ResizeSizes, ...]
    values: F32  # (3, 256): what becomes of each byte in each output channel
    bgr: bool
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the images."""
        return len(self.pixels), 3, *self.sizes[0].padded

    @property
    def nbytes(self) -> int:
        """Of the images."""
        return prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.pixels)

    def arrays(self) -> list[np.ndarray]:
        """What the device needs: the values, then of each picture its bytes and its filters across and down."""
        arrays: list[np.ndarray] = [self.values]
        for pixels, sizes in zip(self.pixels, self.sizes, strict=True):
            (h0, w0), (h, w) = sizes.given, sizes.resized
            arrays += [pixels, resize_filter(w0, w), resize_filter(h0, h)]
        return arrays

    def launches(self, staged_ptr: int, parts: Sequence[Part], images_ptr: int) -> list[Launch]:
        """parts: of what lies at staged_ptr, `arrays` and room for the largest picture that is resized across."""
        values, *given, between = (staged_ptr + begin for begin in workspace_begins(parts))
        bytes_each = self.nbytes // len(self)
        launches = []
        for place, sizes in enumerate(self.sizes):
            pixels, across, down = given[3 * place : 3 * place + 3]
            image = images_ptr + place * bytes_each
            launches += resize_launches(sizes, self.bgr, pixels, across, down, values, between, image)
        return launches


def ready_for_pictures(session: Session, config: GlipConfig) -> None:
    """Makes a session take Pictures for images. Raises BackendError where it cannot, or the model wants others."""
    ready = getattr(session, "ready_pictures", None)
    if ready is None:
        needs = "tensorrt, torch:cuda or onnxruntime:cuda (with the extra glip-export[cuda]) and a bundle"
        raise BackendError(f"{session.name} has no pictures on a GPU: to prepare them there takes {needs}")
    if config.swin.fuses_text or config.detection.several_scales:
        why = "its backbone reads the text" if config.swin.fuses_text else "it sees them at several scales"
        raise BackendError(f"this model's pictures are prepared on the CPU alone (no gpu_preprocess): {why}")
    ready()


def for_device(
    picture: U8, config: ImageConfig, fixed_size: tuple[int, int] | None = None, name: str = "the picture"
) -> U8:
    """The picture (h, w, 3) itself, or resized where it is too large to be copied. Raises ImageError as `resize`."""
    fitted_shape(picture.shape[0], picture.shape[1], config, fixed_size, name)
    is_large = picture.shape[0] * picture.shape[1] > MAX_DEVICE_PIXELS
    return resize(picture, config, fixed_size, name) if is_large else picture


def device_batch(
    pictures: Sequence[U8],
    originals: Sequence[tuple[int, int]],
    config: ImageConfig,
    fixed_size: tuple[int, int] | None = None,
) -> ImageBatch:
    """As `image.pad`, for the device, of pictures as given or resized already; originals: the sizes (h, w) as given."""
    resized = [fitted_shape(*original, config, fixed_size) for original in originals]
    padded = padded_shape(resized, config, fixed_size)
    sizes = tuple(
        ResizeSizes((picture.shape[0], picture.shape[1]), size, padded)
        for picture, size in zip(pictures, resized, strict=True)
    )
    images: Any = Pictures(tuple(pictures), sizes, normalized_bytes(config), config.bgr255)
    return ImageBatch(images, np.array(resized, np.int64), np.array(originals, np.int64))


class ImageSlot(InputSlot):
    """The slot of images (B, 3, H, W), which may come as Pictures."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._staged = DeviceMemory(pool)  # what the kernels read, and the pictures between across and down

    def load_images(self, images: np.ndarray | Pictures, stream: int) -> None:
        """Starts their copy (read before this returns) on `stream`, and there what makes images of Pictures."""
        if isinstance(images, Pictures):
            self._make(images, stream)
        else:
            self.load_host(images, stream)

    def _make(self, pictures: Pictures, stream: int) -> None:
        driver = self._pool.driver
        arrays = pictures.arrays()
        parts = [(array.dtype, array.size) for array in arrays]
        driver.synchronize_event(self._copied)
        pinned = self._pinned.view((workspace_bytes(parts),), np.uint8)
        for array, begin in zip(arrays, workspace_begins(parts), strict=True):
            np.copyto(pinned[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape), array)
        self._owner = pinned
        parts.append((np.dtype(np.uint8), max(sizes.across_bytes for sizes in pictures.sizes)))
        staged, images = self._staged.at_least(workspace_bytes(parts)), self._memory.at_least(pictures.nbytes)
        driver.wait(stream, self._consumed)
        driver.copy(staged, pinned, pinned.nbytes, stream)
        driver.launch_kernels(pictures.launches(staged, parts, images), stream)
        driver.record(self._copied, stream)
