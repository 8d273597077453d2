"""Class-wise NMS in standard ONNX operators (opset 20), for the exported graphs and for the plugin's reference."""

from __future__ import annotations

import onnxscript
from onnxscript import opset20 as op


def class_wise_nms(
    boxes: onnxscript.FLOAT,
    scores: onnxscript.FLOAT,
    labels: onnxscript.INT64,
    num_classes: onnxscript.INT64,
    threshold: float,
) -> onnxscript.BOOL:
    """Which candidates stay; `graph_ops.class_wise_nms` has the shapes and the rule.

    Scores are laid out per class; plain IoU on [x1, y1, x2+1, y2+1] is GLIP's with + 1 on widths and heights.
    """
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
    return op.Cast(op.ScatterND(scores * 0.0, image_and_candidate, ones), to=9)  # BOOL
