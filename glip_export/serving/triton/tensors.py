"""A Triton request's tensors as what the Detector takes, and its detections as Triton's tensors.

The rows of a request are pictures: image (n, 1) or pixels (n, H, W, 3), prompt (n, 1), threshold (n, 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from glip_export.errors import ImageError, PromptError
from glip_export.image import U8
from glip_export.results.detections import Detections
from glip_export.runtime.request_batch import Request
from glip_export.serving.triton.prompts import read_prompt
from glip_export.serving.triton.settings import TritonSettings

INPUTS = ("image", "pixels", "prompt", "threshold")


def read_requests(tensors: Mapping[str, np.ndarray], settings: TritonSettings) -> list[Request]:
    """One Request a row; raises ImageError or PromptError for what is over the limits or cannot be read."""
    if "prompt" not in tensors:  # Triton does not see to it where other inputs are optional
        raise PromptError("the request has no prompt")
    images = _images(tensors, settings)
    prompts = [read_prompt(text, settings.max_names) for text in tensors["prompt"].reshape(-1)]
    thresholds = tensors["threshold"].reshape(-1).tolist() if "threshold" in tensors else [0.0] * len(images)
    rows = zip(images, prompts, thresholds, strict=True)
    return [Request(image, prompt, threshold) for image, prompt, threshold in rows]


def write_detections(rows: Sequence[Detections]) -> dict[str, np.ndarray]:
    """The outputs of n pictures: boxes (n, N, 4), scores, labels and names (n, N), count (n, 1), image_size (n, 2).

    N is the largest count, or 1 where all are 0, as an empty tensor of texts is not sure to be taken. Behind a
    picture's own there are zeros, the label -1 and empty names.
    """
    most = max(1, *(len(row) for row in rows))
    outputs: dict[str, np.ndarray] = {
        "boxes": np.zeros((len(rows), most, 4), np.float32),
        "scores": np.zeros((len(rows), most), np.float32),
        "labels": np.full((len(rows), most), -1, np.int64),
        "names": np.full((len(rows), most), b"", np.object_),
        "count": np.array([[len(row)] for row in rows], np.int64),
        "image_size": np.array([row.image_size for row in rows], np.int64),
    }
    for index, row in enumerate(rows):
        n = len(row)
        outputs["boxes"][index, :n] = row.boxes
        outputs["scores"][index, :n] = row.scores
        outputs["labels"][index, :n] = row.labels
        outputs["names"][index, :n] = [name.encode() for name in row.names]
    return outputs


def _images(tensors: Mapping[str, np.ndarray], settings: TritonSettings) -> list[bytes | U8]:
    if ("image" in tensors) == ("pixels" in tensors):
        raise ImageError("a request has either image (an encoded file) or pixels (uint8 RGB)")
    if "pixels" in tensors:
        return list(tensors["pixels"])
    images: list[bytes | U8] = [bytes(data) for data in tensors["image"].reshape(-1)]
    for data in images:
        if len(data) > settings.max_bytes:
            raise ImageError(f"the picture has {len(data)} bytes; this server accepts {settings.max_bytes}")
    return images
