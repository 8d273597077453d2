"""The operators of a bundle's graphs as calls of PyTorch.

Each handler is given a node and its inputs and returns a call, which a program makes and remembers (`program.py`).
Inputs that say sizes, axes or bounds come as Python lists; they follow from the shapes of the graph's inputs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir
import torch
from torch.nn import functional as F

from glip_export.runtime.torch_cuda import (  # some register our operators
    bi_attention,
    candidates,  # noqa: F401
    dyconv,  # noqa: F401
    functions,
    kernels,  # noqa: F401
    norms,  # noqa: F401
    text_layer,
    windows,  # noqa: F401
)
from glip_export.trt.nodes import (
    BI_ATTENTION,
    CANDIDATES,
    DEFORM_IM2COL,
    DYCONV,
    NMS,
    SWIN_BLOCK,
    TEXT_FROM_IMAGE,
    TEXT_LAYER,
    TEXT_TO_IMAGE,
)

DTYPES = {
    onnx_ir.DataType.FLOAT: torch.float32,
    onnx_ir.DataType.FLOAT16: torch.float16,
    onnx_ir.DataType.BFLOAT16: torch.bfloat16,
    onnx_ir.DataType.DOUBLE: torch.float64,
    onnx_ir.DataType.INT64: torch.int64,
    onnx_ir.DataType.INT32: torch.int32,
    onnx_ir.DataType.BOOL: torch.bool,
}

Call = tuple[Any, ...]  # a function and its arguments
Handler = Callable[..., Call]


@dataclass(frozen=True)
class Operator:
    """How a node becomes a call; `static` are the places of the inputs that the handler takes as lists.

    compiled: the handler for calls that a compiler is given, which may lay values out in another way than the run that
    was traced, where that makes a difference.
    """

    handler: Handler
    static: frozenset[int]
    compiled: Handler


OPERATORS: dict[str, Operator] = {}


def _operator(
    *names: str, static: tuple[int, ...] = (), compiled: Handler | None = None
) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        for name in names:
            OPERATORS[name] = Operator(handler, frozenset(static), compiled or handler)
        return handler

    return register


# -- elementwise

_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Ceil": torch.ceil, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Log": torch.log,
    "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": torch.relu,
    "Sigmoid": torch.sigmoid, "Softplus": F.softplus, "Sqrt": torch.sqrt, "Tanh": torch.tanh,
}  # fmt: skip
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "And": torch.logical_and, "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
    "Less": torch.lt, "LessOrEqual": torch.le, "Mod": torch.remainder, "Mul": torch.mul, "Or": torch.logical_or,
    "Pow": torch.pow, "Sub": torch.sub,
}  # fmt: skip


@_operator(*_UNARY)
def _unary(node: onnx_ir.Node, x: torch.Tensor) -> Call:
    return _UNARY[node.op_type], x


@_operator(*_BINARY)
def _binary(node: onnx_ir.Node, a: torch.Tensor, b: torch.Tensor) -> Call:
    return _BINARY[node.op_type], a, b


@_operator("Div")
def _divide(node: onnx_ir.Node, a: torch.Tensor, b: torch.Tensor) -> Call:
    return (functions.truncated_quotient if not a.is_floating_point() else torch.div), a, b


@_operator("Max", "Min")
def _extreme(node: onnx_ir.Node, *values: torch.Tensor) -> Call:
    return (functions.maximum if node.op_type == "Max" else functions.minimum), *values


@_operator("Where")
def _where(node: onnx_ir.Node, condition: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> Call:
    return torch.where, condition, yes, no


@_operator("Clip", static=(1, 2))
def _clip(node: onnx_ir.Node, x: torch.Tensor, low: Any = None, high: Any = None) -> Call:
    return torch.clamp, x, _scalar(low), _scalar(high)


@_operator("Gelu")
def _gelu(node: onnx_ir.Node, x: torch.Tensor) -> Call:
    return functions.gelu, x, _attribute(node, "approximate", "none")


@_operator("Cast")
def _cast(node: onnx_ir.Node, x: torch.Tensor) -> Call:
    return functions.cast, x, DTYPES[onnx_ir.DataType(node.attributes["to"].as_int())]


@_operator("CastLike")
def _cast_like(node: onnx_ir.Node, x: torch.Tensor, like: torch.Tensor) -> Call:
    return functions.cast, x, like.dtype


@_operator("Identity")
def _identity(node: onnx_ir.Node, x: torch.Tensor) -> Call:
    return functions.alias, x


# -- products and convolutions


@_operator("MatMul")
def _matmul(node: onnx_ir.Node, a: torch.Tensor, b: torch.Tensor) -> Call:
    return torch.matmul, a, b


@_operator("Gemm")
def _gemm(node: onnx_ir.Node, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> Call:
    _insist(node, alpha=1.0, beta=1.0, transA=0)
    return F.linear, a, (b if _attribute(node, "transB", 0) else b.T), c


@_operator("Conv")
def _conv(node: onnx_ir.Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Call:
    _insist(node, auto_pad="NOTSET")
    pads = list(_attribute(node, "pads", (0, 0, 0, 0)))
    if pads[:2] != pads[2:]:
        raise NotImplementedError(f"Conv with pads {pads}")
    strides, dilations = (list(_attribute(node, name, (1, 1))) for name in ("strides", "dilations"))
    return F.conv2d, x, weight, bias, strides, pads[:2], dilations, _attribute(node, "group", 1)


@_operator(DEFORM_IM2COL)
def _deform_im2col(node: onnx_ir.Node, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> Call:
    return torch.ops.glip_export.deform_im2col.default, x, offset, mask, _attribute(node, "stride", 1)


def _dyconv_copied(node: onnx_ir.Node, *tensors: torch.Tensor, adjacent: bool = False) -> Call:
    levels, groups = node.attributes["levels"].as_int(), node.attributes["groups"].as_int()
    return functions.dyconv, levels, groups, list(node.attributes["epsilon"].as_floats()), adjacent, *tensors


@_operator(DYCONV, compiled=_dyconv_copied)
def _dyconv(node: onnx_ir.Node, *tensors: torch.Tensor) -> Call:
    positions = functions.positions_of(tensors[: node.attributes["levels"].as_int()])
    return _dyconv_copied(node, *tensors, adjacent=functions.are_adjacent(positions, 1))


@_operator(SWIN_BLOCK)
def _swin_block(node: onnx_ir.Node, *tensors: torch.Tensor) -> Call:
    window, shift = node.attributes["window"].as_int(), node.attributes["shift"].as_int()
    scale, epsilon = node.attributes["scale"].as_float(), list(node.attributes["epsilon"].as_floats())
    return functions.swin_block, window, shift, scale, epsilon, *tensors


@_operator(TEXT_LAYER)
def _text_layer(node: onnx_ir.Node, *tensors: torch.Tensor) -> Call:
    heads, scale = node.attributes["heads"].as_int(), node.attributes["scale"].as_float()
    epsilon, limits = (list(node.attributes[name].as_floats()) for name in ("epsilon", "limits"))
    return text_layer.text_layer, heads, scale, epsilon, limits, *tensors


@_operator(TEXT_TO_IMAGE, TEXT_FROM_IMAGE)
def _text_side(node: onnx_ir.Node, *tensors: torch.Tensor) -> Call:
    function = functions.text_to_image if node.op_type == TEXT_TO_IMAGE else functions.text_from_image
    return function, node.attributes["heads"].as_int(), *tensors


@_operator(CANDIDATES)
def _candidates(node: onnx_ir.Node, *tensors: torch.Tensor) -> Call:
    threshold, k = node.attributes["score_threshold"].as_float(), node.attributes["pre_nms_top_n"].as_int()
    strides = list(node.attributes["anchor_strides"].as_ints())
    anchors, scales = (list(node.attributes[name].as_floats()) for name in ("anchor_sizes", "scales"))
    return functions.candidates, threshold, k, anchors, strides, scales, *tensors


@_operator(BI_ATTENTION)
def _bi_attention(node: onnx_ir.Node, *tensors: torch.Tensor) -> Call:
    epsilon, limits = node.attributes["epsilon"].as_float(), list(node.attributes["limits"].as_floats())
    return bi_attention.bi_attention, epsilon, limits, *tensors


@_operator(NMS)
def _nms(node: onnx_ir.Node, boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> Call:
    threshold, detections = node.attributes["iou_threshold"].as_float(), node.attributes["max_detections"].as_int()
    return torch.ops.glip_export.nms.default, boxes, scores, labels, threshold, detections


# -- norms and reductions


@_operator("LayerNormalization")
def _layer_norm(node: onnx_ir.Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Call:
    axis = _attribute(node, "axis", -1) % x.ndim
    return F.layer_norm, x, list(x.shape[axis:]), weight, bias, _attribute(node, "epsilon", 1e-5)


@_operator("InstanceNormalization")
def _instance_norm(node: onnx_ir.Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Call:
    return F.instance_norm, x, None, None, weight, bias, True, 0.0, _attribute(node, "epsilon", 1e-5)


@_operator("Softmax")
def _softmax(node: onnx_ir.Node, x: torch.Tensor) -> Call:
    return torch.softmax, x, _attribute(node, "axis", -1)


_REDUCTIONS: dict[str, tuple[Any, ...]] = {  # what stands before the axes
    "ReduceL2": (torch.linalg.vector_norm, 2), "ReduceMax": (torch.amax,), "ReduceMean": (torch.mean,),
    "ReduceMin": (torch.amin,), "ReduceSum": (torch.sum,),
}  # fmt: skip


@_operator(*_REDUCTIONS, static=(1,))
def _reduce(node: onnx_ir.Node, x: torch.Tensor, axes: list[int] | None = None) -> Call:
    _insist(node, noop_with_empty_axes=0)
    reduce, *before = _REDUCTIONS[node.op_type]
    return reduce, x, *before, axes or list(range(x.ndim)), bool(_attribute(node, "keepdims", 1))


@_operator("TopK", static=(1,))
def _top_k(node: onnx_ir.Node, x: torch.Tensor, k: list[int]) -> Call:
    _insist(node, largest=1, sorted=1)
    return functions.top_k, x, k[0], _attribute(node, "axis", -1)


# -- what moves elements


@_operator("Shape")
def _shape(node: onnx_ir.Node, x: torch.Tensor) -> Call:
    start, end = _attribute(node, "start", 0), _attribute(node, "end", None)
    return torch.tensor, list(x.shape)[start:end]


@_operator("Reshape", static=(1,))
def _reshape(node: onnx_ir.Node, x: torch.Tensor, shape: list[int]) -> Call:
    if not _attribute(node, "allowzero", 0):
        shape = [x.shape[place] if size == 0 else size for place, size in enumerate(shape)]
    return torch.reshape, x, shape


@_operator("Transpose")
def _transpose(node: onnx_ir.Node, x: torch.Tensor) -> Call:
    return torch.permute, x, list(_attribute(node, "perm", tuple(reversed(range(x.ndim)))))


def _concat_copied(node: onnx_ir.Node, *values: torch.Tensor) -> Call:
    return functions.concat, node.attributes["axis"].as_int() % values[0].ndim, *values


@_operator("Concat", compiled=_concat_copied)
def _concat(node: onnx_ir.Node, *values: torch.Tensor) -> Call:
    axis = node.attributes["axis"].as_int() % values[0].ndim
    if len(values) > 1 and functions.are_adjacent(values, axis):  # so they are in every run of the same calls
        return functions.extended, values[0], axis, sum(value.shape[axis] for value in values)
    return _concat_copied(node, *values)


@_operator("Split", static=(1,))
def _split(node: onnx_ir.Node, x: torch.Tensor, sizes: list[int] | None = None) -> Call:
    axis = _attribute(node, "axis", 0)
    if sizes is None:
        parts = len(node.outputs)
        each = -(-x.shape[axis] // parts)
        sizes = [min(each, x.shape[axis] - part * each) for part in range(parts)]
    return torch.split, x, sizes, axis


@_operator("Slice", static=(1, 2, 3, 4))
def _slice(
    node: onnx_ir.Node,
    x: torch.Tensor,
    starts: list[int],
    ends: list[int],
    axes: list[int] | None = None,
    steps: list[int] | None = None,
) -> Call:
    index, backwards = [slice(None)] * x.ndim, []
    axes = list(range(len(starts))) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        places = range(*slice(start, end, step).indices(x.shape[axis]))
        if step < 0:
            backwards.append(axis)
            places = places[::-1]
        index[axis] = slice(places.start, places.stop, places.step) if places else slice(0, 0)
    return functions.index_with, x, tuple(index), backwards


@_operator("Gather")
def _gather(node: onnx_ir.Node, x: torch.Tensor, index: torch.Tensor) -> Call:
    return functions.take, x, _attribute(node, "axis", 0) % x.ndim, index


@_operator("GatherElements")
def _gather_elements(node: onnx_ir.Node, x: torch.Tensor, index: torch.Tensor) -> Call:
    return torch.gather, x, _attribute(node, "axis", 0), index


@_operator("Squeeze", static=(1,))
def _squeeze(node: onnx_ir.Node, x: torch.Tensor, axes: list[int] | None = None) -> Call:
    gone = {axis % x.ndim for axis in axes} if axes else {axis for axis, size in enumerate(x.shape) if size == 1}
    return torch.reshape, x, [size for axis, size in enumerate(x.shape) if axis not in gone]


@_operator("Unsqueeze", static=(1,))
def _unsqueeze(node: onnx_ir.Node, x: torch.Tensor, axes: list[int]) -> Call:
    rank, sizes = x.ndim + len(axes), iter(x.shape)
    new = {axis % rank for axis in axes}
    return torch.reshape, x, [1 if axis in new else next(sizes) for axis in range(rank)]


@_operator("Expand", static=(1,))
def _expand(node: onnx_ir.Node, x: torch.Tensor, shape: list[int]) -> Call:
    return torch.broadcast_to, x, list(torch.broadcast_shapes(tuple(x.shape), tuple(shape)))


@_operator("Tile", static=(1,))
def _tile(node: onnx_ir.Node, x: torch.Tensor, repeats: list[int]) -> Call:
    return torch.tile, x, repeats


@_operator("Pad", static=(1, 2, 3))
def _pad(
    node: onnx_ir.Node,
    x: torch.Tensor,
    pads: list[int],
    value: list[float] | None = None,
    axes: list[int] | None = None,
) -> Call:
    _insist(node, mode="constant")
    sides = [(0, 0)] * x.ndim
    axes = list(range(x.ndim)) if axes is None else axes
    for place, axis in enumerate(axes):
        sides[axis] = pads[place], pads[len(axes) + place]
    flat = [side for pair in reversed(sides) for side in pair]
    return F.pad, x, flat, "constant", _scalar(value) or 0


@_operator("Range", static=(0, 1, 2))
def _range(node: onnx_ir.Node, start: list[Any], limit: list[Any], delta: list[Any]) -> Call:
    return torch.arange, _scalar(start), _scalar(limit), _scalar(delta)


@_operator("ConstantOfShape", static=(0,))
def _constant_of_shape(node: onnx_ir.Node, shape: list[int]) -> Call:
    value = node.attributes["value"].as_tensor() if "value" in node.attributes else None
    filled, dtype = (0.0, torch.float32) if value is None else (value.numpy().item(), DTYPES[value.dtype])
    return functions.full, shape, filled, dtype


@_operator("Resize", static=(1, 2, 3))
def _resize(node: onnx_ir.Node, x: torch.Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Call:
    mode, way = _attribute(node, "mode", "nearest"), _attribute(node, "coordinate_transformation_mode", "half_pixel")
    _insist(node, antialias=0, keep_aspect_ratio_policy="stretch")
    size = sizes[2:] if sizes else [int(side * scale) for side, scale in zip(x.shape[2:], scales[2:], strict=True)]
    if (mode, way, _attribute(node, "nearest_mode", "")) == ("nearest", "asymmetric", "floor"):
        return F.interpolate, x, size, None, "nearest"
    if (mode, way) == ("linear", "align_corners"):
        return F.interpolate, x, size, None, "bilinear", True
    if (mode, way, _attribute(node, "cubic_coeff_a", -0.75)) == ("cubic", "half_pixel", -0.75):
        _insist(node, exclude_outside=0)
        return F.interpolate, x, size, None, "bicubic", False
    raise NotImplementedError(f"Resize {mode} {way}")


def _attribute(node: onnx_ir.Node, name: str, default: Any) -> Any:
    return node.attributes[name].value if name in node.attributes else default


def _insist(node: onnx_ir.Node, **values: Any) -> None:
    """Raises NotImplementedError for an attribute that asks for something else."""
    for name, value in values.items():
        if (given := _attribute(node, name, value)) != value:
            raise NotImplementedError(f"{node.op_type} with {name} {given}")


def _scalar(values: Any) -> Any:
    """The one value of a list, or of a number as it is."""
    return values[0] if isinstance(values, list) else values
