"""What every backend offers: the three graphs as calls on NumPy arrays."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Pyramid = tuple[F32, F32, F32, F32, F32]  # P3..P7, each (B, C, H/8..H/128, W/8..W/128), rounded up


class Session(Protocol):
    """One backend holding the three graphs of one bundle.

    Shapes: B pictures, T tokens, K classes, D detections; H and W are multiples of 32.
    """

    name: str

    def text_encoder(self, input_ids: I64, attention_mask: I64) -> F32:
        """(B, T), (B, T) -> text features (B, T, L)."""
        ...

    def vision_backbone(self, images: F32) -> Pyramid:
        """(B, 3, H, W) -> P3..P7."""
        ...

    def fusion_head(
        self, features: Pyramid, text_features: F32, attention_mask: I64, class_map: F32, image_sizes: I64
    ) -> tuple[F32, F32, I64, I64]:
        """P3..P7, (B, T, L), (B, T), (B, T, K), (B, 2) as h, w.

        -> boxes (B, D, 4) xyxy in resized pixels, scores (B, D) falling, labels (B, D) with -1 where empty, count (B,).
        """
        ...
