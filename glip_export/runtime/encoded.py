"""Pictures after the vision backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glip_export.runtime.cuda.arrays import DeviceArray, JoinedArrays
from glip_export.runtime.session import F32, I64, Pyramid


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """A batch of pictures after the vision backbone, ready for any number of prompts."""

    features: Pyramid  # () where the backbone fuses text, which every prompt does anew
    sizes: I64  # (B, 2), h and w of each resized picture
    originals: I64  # (B, 2), h and w of each picture as given
    images: F32 | None = None  # (B, 3, H, W), where the backbone fuses text


def selected(encoded: EncodedImages, indices: Sequence[int]) -> EncodedImages:
    """Some of a batch's pictures, copied; features of a GPU stay there."""
    features = tuple(_rows(level, indices) for level in encoded.features)
    images = None if encoded.images is None else encoded.images[indices]
    return EncodedImages(features, encoded.sizes[indices], encoded.originals[indices], images)


def joined(parts: Sequence[EncodedImages]) -> EncodedImages:
    """The pictures of several batches of one padded size as one batch; features of a GPU stay there."""
    images = [part.images for part in parts if part.images is not None]
    return EncodedImages(
        tuple(joined_arrays(levels) for levels in zip(*(part.features for part in parts), strict=True)),
        np.concatenate([part.sizes for part in parts]),
        np.concatenate([part.originals for part in parts]),
        np.concatenate(images) if images else None,
    )


def joined_arrays(arrays: Sequence[Any]) -> Any:
    """Arrays along their first axis, one alone as it is; those of one session on a GPU stay there."""
    if len(arrays) == 1:
        return arrays[0]
    if all(isinstance(array, DeviceArray) and array.pool is arrays[0].pool for array in arrays):
        return JoinedArrays(arrays)
    return np.concatenate([np.asarray(array) for array in arrays])


def kept(array: Any) -> Any:
    """An array to hold for long: one of a GPU as a copy there, so that the next run finds its memory where it was."""
    return array.rows(range(len(array))) if isinstance(array, DeviceArray) else array


def _rows(level: Any, indices: Sequence[int]) -> Any:
    if isinstance(level, DeviceArray):
        return level.rows(indices)
    return np.ascontiguousarray(level[indices])


def pair(size: I64) -> tuple[int, int]:
    """A size (2,) as h, w."""
    return int(size[0]), int(size[1])
