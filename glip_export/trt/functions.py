"""Steps of the lowered graphs as ONNX functions of standard operators.

GlipDeformIm2Col and GlipNms say what those plugins compute: with them a lowered graph runs wherever standard
operators do, and the first is also what `--deform-conv gridsample` gives TensorRT. The others are written here to be
inlined where they are called.
"""

from __future__ import annotations

import onnxscript
from onnxscript import FLOAT, INT32
from onnxscript import opset20 as op

from glip_export.graphs.onnx_nms import class_wise_nms
from glip_export.trt.nodes import DOMAIN, OPSET

GLIP = onnxscript.values.Opset(DOMAIN, OPSET)

keep_by_class = onnxscript.script(GLIP)(class_wise_nms)


@onnxscript.script(GLIP)
def GlipDeformIm2Col(x: FLOAT, offset: FLOAT, mask: FLOAT, stride: int) -> FLOAT:  # noqa: N802  the plugin's name
    """x (B, C, H, W), offset (B, 18, Ho, Wo), mask (B, 9, Ho, Wo) -> columns (B, C*9, Ho*Wo) of x's dtype.

    One GridSample of nine rows, a tap each, in float32 at every precision: positions in half precision would be off by
    a tenth of a pixel, and TensorRT takes a map and positions of one type only.
    """
    height, width = op.Cast(op.Shape(x, start=2, end=3), to=1), op.Cast(op.Shape(x, start=3, end=4), to=1)
    step, zero, one = op.Constant(value_int=stride), op.Constant(value_int=0), op.Constant(value_int=1)
    rows = op.Range(zero, op.Squeeze(op.Shape(offset, start=2, end=3)), one) * step
    columns = op.Range(zero, op.Squeeze(op.Shape(offset, start=3, end=4)), one) * step
    tap_rows = op.Constant(value_floats=[-1.0, -1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    tap_columns = op.Constant(value_floats=[-1.0, 0.0, 1.0, -1.0, 0.0, 1.0, -1.0, 0.0, 1.0])
    still_y = op.Unsqueeze(tap_rows, [1, 2]) + op.Unsqueeze(op.Cast(rows, to=1), [1])  # (9, Ho, 1)
    still_x = op.Unsqueeze(tap_columns, [1, 2]) + op.Cast(columns, to=1)  # (9, 1, Wo)

    axis, every_second = op.Constant(value_ints=[1]), op.Constant(value_ints=[2])
    first, second, end = op.Constant(value_ints=[0]), op.Constant(value_ints=[1]), op.Constant(value_ints=[18])
    dy = op.Cast(op.Slice(offset, first, end, axis, every_second), to=1)  # (B, 9, Ho, Wo)
    dx = op.Cast(op.Slice(offset, second, end, axis, every_second), to=1)
    # Two pixels outside every corner counts 0 already; so no position is too large to become an index.
    unit, two, outside = op.Constant(value_float=1.0), op.Constant(value_float=2.0), op.Constant(value_float=-2.0)
    pixel_y = op.Max(op.Min(dy + still_y, height + unit), outside)
    pixel_x = op.Max(op.Min(dx + still_x, width + unit), outside)
    per_tap = op.Constant(value_ints=[0, 0, -1, 1])
    grid = op.Concat(
        op.Reshape((pixel_x * two + unit) / width - unit, per_tap),
        op.Reshape((pixel_y * two + unit) / height - unit, per_tap),
        axis=3,
    )  # (B, 9, Ho*Wo, 2): pixel centres, as align_corners=0 counts
    samples = op.GridSample(op.Cast(x, to=1), grid, align_corners=0, mode="linear", padding_mode="zeros")
    weighted = samples * op.Reshape(op.Cast(mask, to=1), op.Constant(value_ints=[0, 1, 9, -1]))  # (B, C, 9, Ho*Wo)
    joined = op.Concat(op.Constant(value_ints=[0, -1]), op.Shape(weighted, start=3, end=4), axis=0)
    return op.Reshape(op.CastLike(weighted, x), joined)


@onnxscript.script(GLIP)
def GlipNms(  # noqa: N802  the plugin's name
    boxes: FLOAT, scores: FLOAT, labels: INT32, iou_threshold: float, max_detections: int
) -> tuple[FLOAT, FLOAT, INT32, INT32]:
    """boxes (B, M, 4), scores (B, M), labels (B, M) -> boxes (B, D, 4), scores (B, D), labels (B, D), count (B,)."""
    one = op.Constant(value_ints=[1])
    empty = op.Constant(value_float=-1.0)
    # TopK takes no more than there are: behind the candidates stand D empty ones.
    places = op.Reshape(op.Constant(value_int=max_detections), one)
    behind = op.Concat(op.Constant(value_ints=[0, 0, 0]), places, axis=0)
    classes = op.Cast(labels, to=7)
    num_classes = op.Reshape(op.ReduceMax(classes, keepdims=0), one) + one
    keep = keep_by_class(boxes, scores, classes, num_classes, threshold=iou_threshold)
    best, index = op.TopK(op.Pad(op.Where(keep, scores, empty), behind, empty), places, axis=-1, largest=1, sorted=1)
    found = op.GreaterOrEqual(best, op.Constant(value_float=0.0))
    index = op.Where(found, index, op.Constant(value_int=0))
    chosen = op.GatherND(boxes, op.Unsqueeze(index, [2]), batch_dims=1)  # (B, D, 4)
    chosen = op.Where(op.Unsqueeze(found, [2]), chosen, op.Constant(value_float=0.0))
    best = op.Where(found, best, op.Constant(value_float=0.0))
    kept_labels = op.Where(found, op.GatherElements(classes, index, axis=1), op.Constant(value_int=-1))
    count = op.ReduceSum(op.Cast(found, to=6), one, keepdims=0)
    return chosen, best, op.Cast(kept_labels, to=6), count


@onnxscript.script(GLIP)
def ConvolvedColumns(columns: FLOAT, weight: FLOAT, bias: FLOAT, offset: FLOAT) -> FLOAT:  # noqa: N802  an operator
    """columns (B, C*9, Ho*Wo), weight (O, C*9), bias (O,), offset (B, 18, Ho, Wo) -> (B, O, Ho, Wo)."""
    product = op.MatMul(weight, columns) + op.Unsqueeze(bias, [1])
    as_they_are = op.Constant(value_ints=[0, 0])
    return op.Reshape(product, op.Concat(as_they_are, op.Shape(offset, start=2, end=4), axis=0))


@onnxscript.script(GLIP)
def MaximumOfSlice(probabilities: FLOAT, class_map: FLOAT, number: int, slices: int) -> FLOAT:  # noqa: N802  an operator
    """The largest probability among each class's tokens in one slice of them: (B, N, T), (B, T, K) -> (B, N, K).

    All slices have ceil(T / slices) tokens; the last ones are moved back to the end and overlap, which a maximum
    does not mind. 0 for a class without tokens there.
    """
    one, number_of_slices = op.Constant(value_ints=[1]), op.Constant(value_int=slices)
    tokens = op.Shape(class_map, start=1, end=2)
    length = (tokens + number_of_slices - one) / number_of_slices
    start = op.Min(length * op.Constant(value_int=number), tokens - length)
    end = start + length
    part = op.Slice(probabilities, start, end, op.Constant(value_ints=[2]))  # (B, N, t)
    is_token = op.Greater(op.Slice(class_map, start, end, one), op.Constant(value_float=0.0))  # (B, t, K)
    of_class = op.Where(op.Unsqueeze(is_token, [1]), op.Unsqueeze(part, [3]), op.CastLike([0.0], part))
    return op.ReduceMax(of_class, op.Constant(value_ints=[2]), keepdims=0)
