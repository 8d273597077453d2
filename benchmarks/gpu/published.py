"""The published form as the original runs it on a GPU: its CUDA kernels' places taken by ours.

The model in `glip_export.model` is plain PyTorch, and slow on a GPU at two places where the original has CUDA kernels
of its own: the modulated deformable convolution (im2col, then a matrix product) and the class-wise NMS. Inside
`device_kernels` ours stand there, so that the rows called "published" are not slow for want of a kernel. Kinder to them
than the original: the pictures of a batch in one launch, the classes' scores by a matrix product in the place of a loop
over the classes, and no waiting for the device between levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from glip_export.config import DetectionConfig
from glip_export.model import dyconv, selection
from glip_export.runtime.torch_cuda import kernels  # noqa: F401  registers our operators


@contextmanager
def device_kernels() -> Iterator[None]:
    """Inside, every GLIP of this process samples, sorts and suppresses with kernels."""
    stand_ins = (
        (dyconv, "modulated_deform_conv", deform_conv),
        (selection, "best_after_nms", best_after_nms),
        (selection, "top_k", top_k),
    )
    before: list[tuple[Any, str, Any]] = [(module, name, getattr(module, name)) for module, name, _ in stand_ins]
    try:
        for module, name, function in stand_ins:
            setattr(module, name, function)
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


def deform_conv(
    x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int
) -> torch.Tensor:
    """`graph_ops.modulated_deform_conv` by im2col and a matrix product, in float32 under autocast too.

    The original's module has `custom_fwd(cast_inputs=torch.float32)`. It takes the pictures of a batch one after
    another; here they are one launch and one batched product.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, offset, mask = x.float(), offset.float(), mask.float()
        columns = torch.ops.glip_export.deform_im2col(x, offset, mask, stride)  # (B, C * 9, Ho * Wo)
        out = torch.matmul(weight.flatten(1), columns) + bias[:, None]
    return out.view(len(x), -1, *offset.shape[2:])


def best_after_nms(
    candidates: selection.Candidates, num_classes: int, config: DetectionConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`selection.best_after_nms` in one kernel call; boxes and scores in float32, as the original's NMS has them."""
    boxes, scores, labels = candidates
    boxes, scores, labels, count = torch.ops.glip_export.nms(
        boxes.float(), scores.float(), labels.int(), config.nms_threshold, config.detections_per_image
    )
    return boxes, scores, labels.long(), count.long()


def top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`graph_ops.top_k` but for the order of equals, which the original leaves open too."""
    values, places = torch.topk(scores, k, dim=-1)
    return values, places
