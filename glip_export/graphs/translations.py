"""The opaque nodes of `model/graph_ops.py` as standard ONNX operators (opset 20)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxscript
import torch
from onnxscript import opset20 as op

from glip_export.graphs.onnx_nms import class_wise_nms
from glip_export.model import graph_ops  # noqa: F401  registers the glip:: operators


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `torch.onnx.export(custom_translation_table=...)`."""
    ops = torch.ops.glip
    return {
        ops.top_k.default: _top_k,
        ops.modulated_deform_conv.default: _deform_conv,
        ops.class_wise_nms.default: class_wise_nms,
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
