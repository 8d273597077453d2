"""What every backend offers: the three graphs as calls on NumPy arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glip_export.graphs.contracts import BAKED, FUSION_HEAD, LEVELS, TEXT_ENCODER, VISION_BACKBONE, GraphSpec

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Pyramid = tuple[F32, ...]  # P3..P7, each (B, C, H/8..H/128, W/8..W/128), rounded up


class Session(Protocol):
    """One backend holding the three graphs of one bundle.

    Shapes: B pictures, T tokens, K classes, D detections; H and W are multiples of 32. What a token's features are,
    L wide out of the text encoder and F wide into the head, is the bundle's own matter (graphs/contracts.py).
    """

    name: str

    def text_encoder(self, input_ids: I64, attention_mask: I64) -> F32:
        """(B, T), (B, T) -> text features (B, T, L)."""
        ...

    def vision_backbone(self, images: F32, *text: Any) -> tuple[F32, ...]:
        """(B, 3, H, W) -> P3..P7.

        Where the bundle's backbone fuses text: that and (B, T, L), (B, T) -> P3..P7, (B, T, F).
        """
        ...

    def fusion_head(
        self, features: Pyramid, text_features: F32, attention_mask: I64, class_map: F32, image_sizes: I64
    ) -> tuple[F32, F32, I64, I64]:
        """P3..P7, (B, T, F), (B, T), (B, T, K), (B, 2) as h, w.

        -> boxes (B, D, 4) xyxy in resized pixels, scores (B, D) falling, labels (B, D) with -1 where empty, count (B,).
        """
        ...


class GraphSession(ABC):
    """A session whose backend runs one graph at a time on named arrays; see `Session` for shapes.

    one_by_one: run the pictures of a batch in turn. A processor is as quick that way, in the memory of one picture.
    """

    name: str
    specs: Mapping[str, GraphSpec]  # the bundle's own contract
    one_by_one = False

    def text_encoder(self, input_ids: I64, attention_mask: I64) -> F32:
        """See `Session`."""
        return self._run(TEXT_ENCODER, (input_ids, attention_mask))[0]

    def vision_backbone(self, images: F32, *text: Any) -> tuple[F32, ...]:
        """See `Session`."""
        return tuple(self._run_batch(self.specs[VISION_BACKBONE.name], (images, *text)))

    def fusion_head(
        self, features: Pyramid, text_features: F32, attention_mask: I64, class_map: F32, image_sizes: I64
    ) -> tuple[F32, F32, I64, I64]:
        """See `Session`."""
        boxes, scores, labels, count = self._run_batch(
            FUSION_HEAD, (*features, text_features, attention_mask, class_map, image_sizes)
        )
        return boxes, scores, labels, count

    def baked(self, *inputs: np.ndarray) -> tuple[F32, F32, I64, I64]:
        """A baked model's one graph: pictures, as the file takes them, to what `fusion_head` gives."""
        spec = self.specs[BAKED.name]
        takes_batch = spec.inputs[0].axes[0] == "B"
        boxes, scores, labels, count = (self._run_batch if takes_batch else self._run)(spec, inputs)
        return boxes, scores, labels, count

    def _run_batch(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> list[Any]:
        if not self.one_by_one or len(arrays[0]) == 1:
            return self._run(spec, arrays)
        parts = [self._run(spec, tuple(array[i : i + 1] for array in arrays)) for i in range(len(arrays[0]))]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    @abstractmethod
    def _run(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> list[Any]:
        """The graph's outputs, in the contract's order, for its inputs in the contract's order."""


def shapes_of(spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> str:
    """What an error says of a graph's inputs; the pyramid's shapes follow from the others."""
    named = zip(spec.input_names, arrays, strict=True)
    return ", ".join(f"{name} {array.shape}" for name, array in named if name not in LEVELS)


def one_line(error: Exception) -> str:
    """A backend's own words on one line of no more than 400 characters."""
    return " ".join(str(error).split())[:400]
