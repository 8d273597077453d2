"""The opaque nodes of `model/graph_ops.py` as standard ONNX operators (opset 20)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxscript
import torch
from onnxscript import opset20 as op

from glip_export.model import graph_ops  # noqa: F401  registers the glip:: operators


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `torch.onnx.export(custom_translation_table=...)`."""
    ops = torch.ops.glip
    return {
        ops.top_k.default: _top_k,
        ops.modulated_deform_conv.default: _deform_conv,
        ops.class_wise_nms.default: _class_wise_nms,
        ops.class_maximum.default: _class_maximum,
    }


def _top_k(scores: onnxscript.FLOAT, k: int) -> tuple[onnxscript.FLOAT, onnxscript.INT64]:
    return op.TopK(scores, op.Constant(value_ints=[k]), axis=-1, largest=1, sorted=1)


def _deform_conv(
    x: onnxscript.FLOAT,
    offset: onnxscript.FLOAT,
    mask: onnxscript.FLOAT,
    weight: onnxscript.FLOAT,
    bias: onnxscript.FLOAT,
    stride: int,
) -> onnxscript.FLOAT:
    return op.DeformConv(
        x, weight, offset, bias, mask, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[stride, stride], offset_group=1
    )


def _class_wise_nms(
    boxes: onnxscript.FLOAT,
    scores: onnxscript.FLOAT,
    labels: onnxscript.INT64,
    num_classes: onnxscript.INT64,
    threshold: float,
) -> onnxscript.BOOL:
    """Scores are laid out per class; plain IoU on [x1, y1, x2+1, y2+1] is GLIP's with + 1 on widths and heights."""
    grown = boxes + op.Constant(value_floats=[0.0, 0.0, 1.0, 1.0])
    classes = op.Range(op.Constant(value_int=0), op.Squeeze(num_classes), op.Constant(value_int=1))
    is_class = op.Equal(op.Unsqueeze(labels, [1]), op.Unsqueeze(classes, [0, 2]))  # (B, K, M)
    per_class = op.Where(is_class, op.Unsqueeze(scores, [1]), op.Constant(value_float=-1.0))
    selected = op.NonMaxSuppression(
        grown,
        per_class,
        op.Shape(scores, start=1, end=2),  # every candidate may stay
        op.Constant(value_float=threshold),
        op.Constant(value_float=-0.5),  # candidates that are none score -1
    )  # (n, 3): image, class, candidate
    image_and_candidate = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(selected, start=0, end=1))
    return op.Cast(op.ScatterND(scores * 0.0, image_and_candidate, ones), to=onnxscript.onnx_types.BOOL.dtype)


def _class_maximum(probabilities: onnxscript.FLOAT, class_map: onnxscript.FLOAT) -> onnxscript.FLOAT:
    """Gathers each class's tokens, as many as the class with the most has, so that nothing is (B, N, T, K) large."""
    used = op.Cast(op.Greater(op.Transpose(class_map, perm=[0, 2, 1]), op.Constant(value_float=0.0)), to=1)  # (B, K, T)
    most = op.ReduceMax(op.ReduceSum(used, op.Constant(value_ints=[2]), keepdims=0), keepdims=0)
    most = op.Max(op.Cast(op.Reshape(most, op.Constant(value_ints=[1])), to=7), op.Constant(value_ints=[1]))
    is_token, tokens = op.TopK(used, most, axis=2)  # (B, K, n)
    by_token = op.Transpose(probabilities, perm=[0, 2, 1])  # (B, T, N)
    gathered = op.GatherND(by_token, op.Unsqueeze(tokens, [3]), batch_dims=1)  # (B, K, n, N)
    best = op.ReduceMax(gathered * op.Unsqueeze(is_token, [3]), op.Constant(value_ints=[2]), keepdims=0)  # (B, K, N)
    return op.Transpose(best, perm=[0, 2, 1])
