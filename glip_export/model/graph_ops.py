"""Functions that run as plain PyTorch and export as one node each.

A few steps of GLIP have an ONNX operator of their own (DeformConv, NonMaxSuppression, TopK), or a plain form that
would tie symbolic sizes together. They are written here as ordinary functions, differentiable where the mathematics
is; while a graph is being exported the decorated function leaves one opaque node, `glip::<name>`, which
`graphs/translations.py` turns into standard ONNX operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

MAX_SAMPLES = 1 << 23  # values of a deformable convolution's samples at once: 32 MB; a picture at least


def graph_op(fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a function one node of an exported graph; `fake` gives its output's shape and dtype."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        op = torch.library.custom_op(f"glip::{function.__name__}", function, mutates_args=())
        op.register_fake(fake)

        def call(*args: Any) -> Any:
            return op(*args) if torch.compiler.is_exporting() else function(*args)

        call.__name__, call.__doc__ = function.__name__, function.__doc__
        return call

    return decorate


def _like_top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (*scores.shape[:-1], k)
    return scores.new_empty(shape), scores.new_empty(shape, dtype=torch.int64)


@graph_op(_like_top_k)
def top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest along the last axis, falling, and their indices; of equals the smaller index comes first.

    That is ONNX TopK's rule; `torch.topk` leaves the order of equals open.
    """
    values, indices = torch.sort(scores, dim=-1, descending=True, stable=True)
    return values[..., :k].clone(), indices[..., :k].clone()


def _like_offset(
    x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int
) -> torch.Tensor:
    return x.new_empty((offset.shape[0], weight.shape[0], offset.shape[2], offset.shape[3]))


@graph_op(_like_offset)
def modulated_deform_conv(
    x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int
) -> torch.Tensor:
    """3x3 modulated deformable convolution (Zhu et al., 2019), padding 1, one offset group.

    x (B, C, H, W), offset (B, 18, Ho, Wo) as dy, dx interleaved per tap, mask (B, 9, Ho, Wo), weight (O, C, 3, 3),
    bias (O,) -> (B, O, Ho, Wo). A corner outside the map counts as 0, the mask multiplies after interpolation.
    """
    batch, channels, height, width = x.shape
    out_height, out_width = offset.shape[-2:]
    at_once = max(1, MAX_SAMPLES // (9 * out_height * out_width * channels))  # pictures
    matrix = weight.permute(2, 3, 1, 0).reshape(9 * channels, -1)
    out = []
    for first in range(0, batch, at_once):
        pictures = slice(first, first + at_once)
        index, corner_weight = _bilinear_corners(offset[pictures], mask[pictures], height, width, stride)
        pixels = x[pictures].permute(0, 2, 3, 1).reshape(-1, channels)  # (b*H*W, C)
        # Each sample is a bag of its four corners: (b*9*Ho*Wo, C).
        samples = torch.nn.functional.embedding_bag(index, pixels, per_sample_weights=corner_weight, mode="sum")
        columns = samples.view(-1, 9, out_height * out_width, channels).transpose(1, 2)  # (b, Ho*Wo, 9, C)
        out.append(torch.addmm(bias, columns.reshape(-1, 9 * channels), matrix))
    return torch.cat(out).view(batch, out_height, out_width, -1).permute(0, 3, 1, 2).contiguous()


def _bilinear_corners(
    offset: torch.Tensor, mask: torch.Tensor, height: int, width: int, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel indices and weights of the four corners of each sample of b pictures: (b*9*Ho*Wo, 4) each."""
    batch, _, out_height, out_width = offset.shape
    taps, rows, columns, pictures = (torch.arange(n, device=offset.device) for n in (9, out_height, out_width, batch))
    rows, columns = rows * stride - 1, columns * stride - 1
    dy, dx = offset.view(batch, 9, 2, out_height, out_width).unbind(2)  # (b, 9, Ho, Wo) each
    y = (rows.view(-1, 1) + (taps // 3).view(-1, 1, 1)).to(offset) + dy
    x = (columns + (taps % 3).view(-1, 1, 1)).to(offset) + dx
    row, weight_y = _neighbours(y, height)
    column, weight_x = _neighbours(x, width)
    first = (pictures * (height * width)).view(-1, 1, 1, 1, 1, 1)  # of a picture's pixels
    index = first + row[..., :, None] * width + column[..., None, :]
    corner_weight = weight_y[..., :, None] * weight_x[..., None, :] * mask[..., None, None]
    return index.view(-1, 4), corner_weight.view(-1, 4)


def _neighbours(position: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two pixels about each position of one axis, as indices within the map and weights, 0 outside: (..., 2)."""
    position = position.clamp(-2, size + 1)  # beyond that both are outside anyway
    before = position.floor()
    pixels = torch.stack((before, before + 1), -1)
    weights = torch.stack((before + 1 - position, position - before), -1)
    inside = (pixels >= 0) & (pixels < size)
    return pixels.clamp(0, size - 1).long(), weights * inside


def _like_scores(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, num_classes: torch.SymInt, threshold: float
) -> torch.Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@graph_op(_like_scores)
def class_wise_nms(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, num_classes: int, threshold: float
) -> torch.Tensor:
    """Which candidates survive non-maximum suppression within their class.

    boxes (B, M, 4) xyxy in pixels, scores (B, M), negative where there is no candidate, labels (B, M) below
    num_classes -> bool (B, M). Highest score first, of equals the smaller index; a box goes if its IoU with a kept
    one is over the threshold, widths and heights counted with + 1 (GLIP: `ml_nms`).
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        for label in labels[image][scores[image] >= 0].unique():
            members = ((labels[image] == label) & (scores[image] >= 0)).nonzero().squeeze(1)
            order = members[scores[image][members].argsort(descending=True, stable=True)]
            overlaps = box_iou(boxes[image][order]) > threshold  # (n, n)
            suppressed = torch.zeros_like(order, dtype=torch.bool)
            for rank in range(len(order)):
                if not suppressed[rank]:
                    keep[image, order[rank]] = True
                    suppressed |= overlaps[rank]
    return keep


def box_iou(boxes: torch.Tensor) -> torch.Tensor:
    """IoU of every pair, (n, 4) -> (n, n), with widths and heights x2 - x1 + 1 (GLIP's TO_REMOVE)."""
    sizes = boxes[:, 2:] - boxes[:, :2] + 1
    area = sizes[:, 0] * sizes[:, 1]
    top_left = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = (bottom_right - top_left + 1).clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    return intersection / (area[:, None] + area[None, :] - intersection)


def _like_class_scores(probabilities: torch.Tensor, class_map: torch.Tensor) -> torch.Tensor:
    return probabilities.new_empty((*probabilities.shape[:2], class_map.shape[2]))


@graph_op(_like_class_scores)
def class_maximum(probabilities: torch.Tensor, class_map: torch.Tensor) -> torch.Tensor:
    """The largest probability among each class's tokens: (B, N, T), (B, T, K) -> (B, N, K); 0 without tokens."""
    columns = [
        (probabilities * (class_map[:, None, :, k] > 0)).amax(-1) for k in range(class_map.shape[2])
    ]  # one class at a time: all at once would be (B, N, T, K)
    return torch.stack(columns, -1)
