"""The torch backend: the reference model in its plain form. It needs the checkpoint, and the export extra."""

from __future__ import annotations

from pathlib import Path

import torch

from glip_export.bundle import Bundle
from glip_export.checkpoint import read_checkpoint, resolve_weights
from glip_export.errors import BackendError
from glip_export.model.glip import Glip, build_model
from glip_export.runtime.session import F32, I64, Pyramid


class TorchSession:
    """A GLIP in PyTorch behind the same three calls; see `Session` for shapes."""

    name = "torch"

    def __init__(self, model: Glip, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.model = model

    def text_encoder(self, input_ids: I64, attention_mask: I64) -> F32:
        """See `Session`."""
        with torch.inference_mode():
            return self.model.text_encoder(torch.from_numpy(input_ids), torch.from_numpy(attention_mask)).numpy()

    def vision_backbone(self, images: F32) -> Pyramid:
        """See `Session`."""
        with torch.inference_mode():
            p3, p4, p5, p6, p7 = (level.numpy() for level in self.model.vision_backbone(torch.from_numpy(images)))
        return p3, p4, p5, p6, p7

    def fusion_head(
        self, features: Pyramid, text_features: F32, attention_mask: I64, class_map: F32, image_sizes: I64
    ) -> tuple[F32, F32, I64, I64]:
        """See `Session`."""
        others = (text_features, attention_mask, class_map, image_sizes)
        with torch.inference_mode():
            boxes, scores, labels, count = self.model.fusion_head(
                tuple(torch.from_numpy(level) for level in features), *(torch.from_numpy(array) for array in others)
            )
        return boxes.numpy(), scores.numpy(), labels.numpy(), count.numpy()


def load_reference(bundle: Bundle, weights: Path | None = None) -> Glip:
    """The bundle's own model in PyTorch, from its checkpoint; the file must be the one the bundle was made from.

    Raises BackendError if the file is gone or another one.
    """
    path = weights or Path(bundle.weights.path)
    if weights is None and (not bundle.weights.path or not path.exists()):
        where = bundle.weights.path or "no file"
        raise BackendError(f"the torch backend needs the bundle's weights ({where}): say where they are with --weights")
    checkpoint = read_checkpoint(resolve_weights(path))
    if checkpoint.sha256 != bundle.weights.sha256:
        raise BackendError(f"{path} is not the file that {bundle.path} was made from: its SHA-256 differs")
    return build_model(bundle.config, checkpoint)
