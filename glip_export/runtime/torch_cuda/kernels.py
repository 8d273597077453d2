"""Our CUDA kernels as operators of PyTorch: the same sources that the TensorRT plugins run, compiled by NVRTC.

Both are on CUDA tensors and in the order of PyTorch's current stream, may be captured in a CUDA graph after a first
call, and have shapes and types known without running them (for torch.compile). The tests register the same kernels,
compiled as C++, for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glip_export.addresses import in_stream_order
from glip_export.trt.kernels import KernelModule
from glip_export.trt.launches import Launch, im2col_launches, nms_launches, nms_workspace_bytes

NUMPY_DTYPES = {torch.float32: "float32", torch.float16: "float16"}


@torch.library.custom_op("glip_export::deform_im2col", mutates_args=(), device_types="cuda")
def deform_im2col(x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, stride: int) -> torch.Tensor:
    """x (B, C, H, W), offset (B, 18, Ho, Wo), mask (B, 9, Ho, Wo) -> columns (B, C * 9, Ho * Wo), row c * 9 + tap.

    3x3, padding 1; all float32 or all float16; positions are computed in float32. Raises ValueError for another type.
    """
    if x.dtype not in NUMPY_DTYPES:
        raise ValueError(f"the deformable im2col takes float32 or float16, not {x.dtype}")
    x, offset, mask = x.contiguous(), offset.contiguous(), mask.contiguous()
    columns = _empty_columns(x, offset, mask, stride)
    (batch, channels, height, width), (out_height, out_width) = x.shape, offset.shape[2:]
    sizes = (batch, channels, height, width, out_height, out_width, stride)
    pointers = [in_stream_order(tensor) for tensor in (x, offset, mask, columns)]
    put_on_stream(im2col_launches(NUMPY_DTYPES[x.dtype], *sizes, *pointers), x)
    return columns


@deform_im2col.register_fake
def _empty_columns(x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, stride: int) -> torch.Tensor:
    return x.new_empty((x.shape[0], x.shape[1] * 9, offset.shape[2] * offset.shape[3]))


@torch.library.custom_op("glip_export::nms", mutates_args=(), device_types="cuda")
def nms(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, iou_threshold: float, max_detections: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """boxes (B, M, 4) f32, scores (B, M) f32, labels (B, M) int32 -> the best D after class-wise NMS.

    boxes (B, D, 4) f32, scores (B, D) f32 falling, labels (B, D) int32, -1 where empty, count (B,) int32. A score
    below 0 is no candidate.
    """
    boxes, scores, labels = boxes.contiguous(), scores.contiguous(), labels.contiguous()
    for tensor, dtype in ((boxes, torch.float32), (scores, torch.float32), (labels, torch.int32)):
        if tensor.dtype != dtype:
            raise ValueError(f"the box selection was given {tensor.dtype} in the place of {dtype}")
    batch, candidates = scores.shape
    found = _empty_detections(boxes, scores, labels, iou_threshold, max_detections)
    workspace = boxes.new_empty(nms_workspace_bytes(batch, candidates, max_detections), dtype=torch.uint8)
    pointers = [in_stream_order(tensor) for tensor in (boxes, scores, labels, *found, workspace)]
    put_on_stream(nms_launches(batch, candidates, max_detections, iou_threshold, *pointers), boxes)
    return found


@nms.register_fake
def _empty_detections(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, iou_threshold: float, max_detections: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = scores.shape[0]
    return (
        boxes.new_empty((batch, max_detections, 4)),
        scores.new_empty((batch, max_detections)),
        labels.new_empty((batch, max_detections)),
        labels.new_empty((batch,)),
    )


def put_on_stream(launches: Sequence[Launch], on: torch.Tensor) -> None:
    """Puts the launches on PyTorch's current stream of the tensor's device."""
    with torch.cuda.device(on.device):
        KernelModule.current().launch(launches, torch.cuda.current_stream(on.device).cuda_stream)
