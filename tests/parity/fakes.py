"""Sessions that are a few lines of NumPy, to be changed in one output at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from glip_export.config import BertConfig, DetectionConfig, GlipConfig, HeadConfig, ImageConfig, TextConfig
from glip_export.graphs.contracts import LEVELS
from glip_export.parity.cases import Case
from glip_export.runtime.session import F32, I64, Pyramid

DETECTIONS = 20
CONFIG = GlipConfig(
    image=ImageConfig(min_size=64, max_size=96),
    text=TextConfig(bert=BertConfig(hidden_size=6), max_query_len=64),
    head=HeadConfig(channels=4),
    detection=DetectionConfig(detections_per_image=DETECTIONS),
)

Change = Callable[[Any], Any]


class FakeSession:
    """Every output a plain function of the inputs; `changes` maps an output's name to what is done to it."""

    def __init__(self, name: str, changes: Mapping[str, Change] | None = None) -> None:
        self.name = name
        self.changes = changes or {}
        self.calls: list[str] = []

    def text_encoder(self, input_ids: I64, attention_mask: I64) -> F32:
        self.calls.append("text_encoder")
        waves = np.sin(input_ids[..., None] * np.arange(1, 7)) * attention_mask[..., None]
        return self._changed("text_features", waves.astype(np.float32))

    def vision_backbone(self, images: F32) -> Pyramid:
        self.calls.append("vision_backbone")
        weights = np.arange(1, 5, dtype=np.float32)[:, None, None]
        levels = (
            images.mean(axis=1, keepdims=True)[:, :, ::stride, ::stride] * weights for stride in (8, 16, 32, 64, 128)
        )
        p3, p4, p5, p6, p7 = (self._changed(name, level) for name, level in zip(LEVELS, levels, strict=True))
        return p3, p4, p5, p6, p7

    def fusion_head(
        self, features: Pyramid, text_features: F32, attention_mask: I64, class_map: F32, image_sizes: I64
    ) -> tuple[F32, F32, I64, I64]:
        """The DETECTIONS brightest cells of P3 as boxes 20 px wide, classes by turns."""
        self.calls.append("fusion_head")
        bright = features[0][:, 0].reshape(len(image_sizes), -1)
        order = np.argsort(-bright, axis=1, kind="stable")[:, :DETECTIONS]
        scores = 1 / (1 + np.exp(-np.take_along_axis(bright, order, axis=1)))
        y, x = np.divmod(order, features[0].shape[3])
        boxes = np.stack([x * 8 - 10, y * 8 - 10, x * 8 + 10, y * 8 + 10], axis=2)
        boxes = np.clip(boxes, 0, np.tile(image_sizes[:, ::-1] - 1, 2)[:, None, :])
        return (
            self._changed("boxes", boxes.astype(np.float32)),
            self._changed("scores", scores.astype(np.float32)),
            self._changed("labels", order % class_map.shape[2]),
            self._changed("count", np.full(len(image_sizes), DETECTIONS)),
        )

    def _changed(self, name: str, value: Any) -> Any:
        return self.changes.get(name, lambda same: same)(value)


def noise(scale: float) -> Change:
    """Relative rounding noise, another at each call."""
    generator = np.random.default_rng(0)
    return lambda array: (array * (1 + scale * generator.standard_normal(array.shape))).astype(array.dtype)


def cases() -> list[Case]:
    """One picture, then two of different sizes with a prompt of four names and padded tokens."""
    generator = np.random.default_rng(1)
    wide, tall = (generator.integers(0, 256, shape, np.uint8) for shape in ((64, 90, 3), (80, 66, 3)))
    one = Case("one", (wide,), "cat", CONFIG.image)
    return [one, replace(one, name="two", pictures=(wide, tall), prompt="a. b. c. d", padding_tokens=3)]
