"""The reference as it was published: every caption padded to MAX_QUERY_LEN tokens, however short."""

from __future__ import annotations

from typing import Any

import numpy as np

from glip_export.runtime.session import F32, I64, Pyramid, Session

PAD = 0  # BERT's [PAD]


class PublishedForm:
    """A session that runs T = max_query_len tokens whatever it is given; see `Session` for shapes.

    The original always tokenizes with padding="max_length" (MAX_QUERY_LEN, 256) and runs BERT and all of VLFuse on the
    padding too. What stands at padded tokens is never read by a real one, so the detections are the same.
    """

    def __init__(self, session: Session, max_query_len: int) -> None:
        self.name = session.name
        self.session = session
        self.max_query_len = max_query_len

    def text_encoder(self, input_ids: I64, attention_mask: I64) -> F32:
        """See `Session`; the features of the tokens that were given."""
        features = self.session.text_encoder(self._pad(input_ids, PAD), self._pad(attention_mask))
        return features[:, : input_ids.shape[1]]

    def vision_backbone(self, images: F32, *text: Any) -> tuple[F32, ...]:
        """See `Session`; of the text, the tokens that were given."""
        if not text:
            return self.session.vision_backbone(images)
        *features, fused = self.session.vision_backbone(images, *map(self._pad, text))
        return (*features, fused[:, : text[0].shape[1]])

    def fusion_head(
        self, features: Pyramid, text_features: F32, attention_mask: I64, class_map: F32, image_sizes: I64
    ) -> tuple[F32, F32, I64, I64]:
        """See `Session`."""
        return self.session.fusion_head(
            features, self._pad(text_features), self._pad(attention_mask), self._pad(class_map), image_sizes
        )

    def _pad(self, array: np.ndarray, value: int = 0) -> np.ndarray:
        """(B, T, ...) -> (B, max_query_len, ...)."""
        widths = [(0, 0)] * array.ndim
        widths[1] = (0, self.max_query_len - array.shape[1])
        return np.pad(array, widths, constant_values=value)
