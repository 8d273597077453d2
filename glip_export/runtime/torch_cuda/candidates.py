"""The candidates of the NMS, of all levels, as one operator of PyTorch, in our CUDA kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch

from glip_export.addresses import in_stream_order
from glip_export.runtime.torch_cuda.kernels import NUMPY_DTYPES, put_on_stream
from glip_export.trt.candidates_launches import (
    CandidateLevel,
    CandidateSizes,
    candidates_launches,
    candidates_workspace_bytes,
)


@torch.library.custom_op("glip_export::candidates", mutates_args=(), device_types="cuda")
def candidates(
    classes: list[torch.Tensor],
    centerness: list[torch.Tensor],
    deltas: list[torch.Tensor],
    image_sizes: torch.Tensor,
    threshold: float,
    k: int,
    anchor_sizes: list[float],
    anchor_strides: list[int],
    scales: list[float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`glip_export.model.selection.level_candidates` of every level, from class scores on.

    Of each level classes float32 (B, H * W, K), centerness (B, 1, H, W), logits, and deltas (B, 4, H, W), which its
    scale multiplies; the last two all float32 or all float16; image_sizes int64 (B, 2) as h, w. Gives boxes float32
    (B, M, 4) xyxy, scores float32 (B, M), labels int32 (B, M), M = levels * k, a level's best first; an empty place
    holds zeros and the score -1. Maps whose channels are last are taken as they are. May be captured in a CUDA graph
    after a first call. Raises ValueError for other types or shapes.
    """
    given = arranged(classes, centerness, deltas, image_sizes, k, anchor_sizes, anchor_strides, scales)
    boxes, scores, labels = found = _empty(classes, k)
    workspace = scores.new_empty(candidates_workspace_bytes(given.sizes), dtype=torch.uint8)
    launches = candidates_launches(
        NUMPY_DTYPES[deltas[0].dtype],
        given.sizes,
        threshold,
        [in_stream_order(tensor) for tensor in given.classes],
        [in_stream_order(tensor) for tensor in given.centerness],
        [in_stream_order(tensor) for tensor in given.deltas],
        *(in_stream_order(tensor) for tensor in (given.image_sizes, boxes, scores, labels, workspace)),
    )
    put_on_stream(launches, scores)
    return found


@candidates.register_fake
def _empty_candidates(
    classes: list[torch.Tensor],
    centerness: list[torch.Tensor],
    deltas: list[torch.Tensor],
    image_sizes: torch.Tensor,
    threshold: float,
    k: int,
    anchor_sizes: list[float],
    anchor_strides: list[int],
    scales: list[float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _empty(classes, k)


def _empty(classes: list[torch.Tensor], k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scores = classes[0].new_empty((classes[0].shape[0], len(classes) * k))
    return scores.new_empty((*scores.shape, 4)), scores, scores.new_empty(scores.shape, dtype=torch.int32)


class Arranged(NamedTuple):
    """What the kernels are given: contiguous tensors, and in which order they hold what."""

    sizes: CandidateSizes
    classes: list[torch.Tensor]
    centerness: list[torch.Tensor]
    deltas: list[torch.Tensor]
    image_sizes: torch.Tensor


def arranged(
    classes: list[torch.Tensor],
    centerness: list[torch.Tensor],
    deltas: list[torch.Tensor],
    image_sizes: torch.Tensor,
    k: int,
    anchor_sizes: list[float],
    anchor_strides: list[int],
    scales: list[float],
) -> Arranged:
    """Raises ValueError for what `candidates` does not take."""
    maps = [*centerness, *deltas]
    dtypes, wanted = {tensor.dtype for tensor in maps}, {tensor.dtype for tensor in classes}
    if len(dtypes) != 1 or not dtypes <= set(NUMPY_DTYPES) or wanted != {torch.float32}:
        raise ValueError(f"the candidates are found from maps all float32 or float16, not {dtypes}, and float32 scores")
    devices = {tensor.device for tensor in (*classes, *maps, image_sizes)}
    if len(devices) != 1 or image_sizes.dtype != torch.int64:
        raise ValueError(f"the candidates are found on one device, not {devices}, from sizes in int64")
    batch, _, K = classes[0].shape
    moved = [tensor if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1) for tensor in deltas]
    levels = tuple(
        CandidateLevel(delta.shape[2], delta.shape[3], size, stride, scale, last is not delta)
        for delta, last, size, stride, scale in zip(deltas, moved, anchor_sizes, anchor_strides, scales, strict=True)
    )
    for level, *tensors in zip(levels, classes, centerness, deltas, strict=True):
        side = level.height, level.width
        shapes = [(batch, level.positions, K), (batch, 1, *side), (batch, 4, *side)]
        if (given := [tuple(tensor.shape) for tensor in tensors]) != shapes:
            raise ValueError(f"a level's classes, centerness and deltas are {shapes}, not {given}")
    if image_sizes.shape != (batch, 2):
        raise ValueError(f"the sizes of {batch} pictures are given as {tuple(image_sizes.shape)}")
    return Arranged(
        CandidateSizes(batch, K, k, levels),
        [tensor.contiguous() for tensor in classes],
        [tensor.contiguous() for tensor in centerness],
        [tensor.contiguous() for tensor in moved],
        image_sizes.contiguous(),
    )
