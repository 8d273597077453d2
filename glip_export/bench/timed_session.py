"""A session that notes when each graph ran, with which sizes, and what was detected."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from glip_export.graphs.contracts import BAKED, FUSION_HEAD, TEXT_ENCODER, VISION_BACKBONE
from glip_export.runtime.session import F32, I64, Pyramid, Session

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One run of one graph; start and end in seconds of time.perf_counter."""

    graph: str
    start: float
    end: float
    batch: int
    tokens: int = 0  # of text_encoder and fusion_head, and of a backbone that fuses text
    classes: int = 0  # of fusion_head


@dataclass(frozen=True, eq=False)
class RawDetections:
    """What one fusion head call gave, in pixels of the resized pictures; D slots, label -1 where empty."""

    boxes: F32  # (B, D, 4)
    scores: F32  # (B, D)
    labels: I64  # (B, D)


class TimedSession:
    """Any session, timed call by call; see `Session` for shapes. `forget` starts a new record."""

    def __init__(self, session: Session, clock: Callable[[], float] = time.perf_counter) -> None:
        self.name = session.name
        self.session = session
        self.clock = clock
        self.calls: list[Call] = []
        self.detections: list[RawDetections] = []

    def forget(self) -> None:
        """Drops what was noted so far."""
        self.calls, self.detections = [], []

    def text_encoder(self, input_ids: I64, attention_mask: I64) -> F32:
        """See `Session`."""
        batch, tokens = input_ids.shape
        return self._timed(
            TEXT_ENCODER.name, lambda: self.session.text_encoder(input_ids, attention_mask), batch, tokens
        )

    def vision_backbone(self, images: F32, *text: Any) -> tuple[F32, ...]:
        """See `Session`."""
        tokens = text[0].shape[1] if text else 0
        return self._timed(
            VISION_BACKBONE.name, lambda: self.session.vision_backbone(images, *text), len(images), tokens
        )

    def fusion_head(
        self, features: Pyramid, text_features: F32, attention_mask: I64, class_map: F32, image_sizes: I64
    ) -> tuple[F32, F32, I64, I64]:
        """See `Session`."""
        batch, tokens, classes = class_map.shape
        outputs = self._timed(
            FUSION_HEAD.name,
            lambda: self.session.fusion_head(features, text_features, attention_mask, class_map, image_sizes),
            batch,
            tokens,
            classes,
        )
        return self._noted(outputs)

    def baked(self, *inputs: Any) -> tuple[F32, F32, I64, I64]:
        """See `GraphSession`."""
        run: Callable[..., tuple[F32, F32, I64, I64]] = self.session.baked  # type: ignore[attr-defined]
        return self._noted(self._timed(BAKED.name, lambda: run(*inputs), len(inputs[0])))

    def _noted(self, outputs: tuple[F32, F32, I64, I64]) -> tuple[F32, F32, I64, I64]:
        # Copied: a backend may use its output buffers again. Some kilobytes.
        boxes, scores, labels, _ = outputs
        self.detections.append(RawDetections(boxes.copy(), scores.copy(), labels.copy()))
        return outputs

    def __getattr__(self, name: str) -> Any:
        # What a backend offers beyond the protocol, such as its precision.
        return getattr(self.session, name)

    def _timed(self, graph: str, run: Callable[[], T], batch: int, tokens: int = 0, classes: int = 0) -> T:
        start = self.clock()
        result = run()
        if hasattr(self.session, "synchronize"):  # a GPU's calls return before they are done
            self.session.synchronize()
        self.calls.append(Call(graph, start, self.clock(), batch, tokens, classes))
        return result
