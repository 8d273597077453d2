"""Pictures after the vision backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glip_export.runtime.session import F32, I64, Pyramid


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """A batch of pictures after the vision backbone, ready for any number of prompts."""

    features: Pyramid  # () where the backbone fuses text, which every prompt does anew
    sizes: I64  # (B, 2), h and w of each resized picture
    originals: I64  # (B, 2), h and w of each picture as given
    images: F32 | None = None  # (B, 3, H, W), where the backbone fuses text


def selected(encoded: EncodedImages, indices: Sequence[int]) -> EncodedImages:
    """Some of a batch's pictures, copied; features of a GPU come to the host."""
    features = tuple(np.ascontiguousarray(np.asarray(level)[indices]) for level in encoded.features)
    images = None if encoded.images is None else encoded.images[indices]
    return EncodedImages(features, encoded.sizes[indices], encoded.originals[indices], images)


def pair(size: I64) -> tuple[int, int]:
    """A size (2,) as h, w."""
    return int(size[0]), int(size[1])
