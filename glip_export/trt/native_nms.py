# mypy: ignore-errors
# onnxscript types its operators for its own tensors, and gives plain Python there.
"""Class-wise NMS without NonMaxSuppression, which TensorRT for RTX lacks, and without a plugin: products and a loop.

Of two rivals the worse one goes if the better one stays. That rule over all pairs has one solution. The loop begins
with all candidates and applies it to what stayed last until nothing changes: after n rounds the n best of every class
are right, and mostly two or three rounds are enough.
"""

from __future__ import annotations

import onnxscript
from onnxscript import BOOL, FLOAT, INT64
from onnxscript import opset20 as op

from glip_export.trt.nodes import DOMAIN, OPSET


@onnxscript.script(onnxscript.values.Opset(DOMAIN, OPSET))
def class_wise_nms(boxes: FLOAT, scores: FLOAT, labels: INT64, num_classes: INT64, threshold: float) -> BOOL:
    """Which candidates stay, (B, M); of the name and arguments of `graphs.onnx_nms.class_wise_nms`, which it equals.

    IoU as `results.nms.overlaps` computes it. Its memory is some (B, M, M).
    """
    zero, one = op.Constant(value_float=0.0), op.Constant(value_float=1.0)
    left, top, right, bottom = op.Split(boxes, axis=2, num_outputs=4)  # (B, M, 1): the better one's
    left_of, top_of = (
        op.Transpose(left, perm=[0, 2, 1]),
        op.Transpose(top, perm=[0, 2, 1]),
    )  # (B, 1, M): the worse
    right_of, bottom_of = op.Transpose(right, perm=[0, 2, 1]), op.Transpose(bottom, perm=[0, 2, 1])
    width = op.Max(op.Min(right, right_of) - op.Max(left, left_of) + one, zero)
    height = op.Max(op.Min(bottom, bottom_of) - op.Max(top, top_of) + one, zero)
    shared = width * height
    area = (right - left + one) * (bottom - top + one)
    union = area + op.Transpose(area, perm=[0, 2, 1]) - shared
    overlapping = op.Greater(shared / union, op.Constant(value_float=threshold))

    column, row = op.Unsqueeze(scores, [2]), op.Unsqueeze(scores, [1])
    many = op.Squeeze(op.Shape(scores, start=1, end=2))
    number = op.Cast(op.Range(op.Constant(value_int=0), many, op.Constant(value_int=1)), to=1)
    earlier = op.Less(op.Unsqueeze(number, [1]), op.Unsqueeze(number, [0]))
    is_better = op.Or(op.Greater(column, row), op.And(op.Equal(column, row), earlier))
    of_class = op.Cast(labels, to=1)
    is_rival = op.Equal(op.Unsqueeze(of_class, [2]), op.Unsqueeze(of_class, [1]))
    beats = op.Cast(op.And(op.And(overlapping, is_better), is_rival), to=1)

    # Candidates that are none score -1; they beat each other alone.
    stays = op.Cast(op.GreaterOrEqual(row, zero), to=1)  # (B, 1, M)
    first = op.Identity(stays)
    changes = op.Greater(op.ReduceMax(stays, keepdims=0), op.Constant(value_float=-1.0))
    while changes:
        unbeaten = op.Cast(op.Less(op.MatMul(stays, beats), op.Constant(value_float=0.5)), to=1) * first
        changes = op.Greater(op.ReduceMax(op.Abs(unbeaten - stays), keepdims=0), op.Constant(value_float=0.5))
        stays = op.Identity(unbeaten)
    return op.Greater(op.Squeeze(stays, [1]), op.Constant(value_float=0.5))
