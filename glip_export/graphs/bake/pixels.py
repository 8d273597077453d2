"""Pictures as they are, uint8 (H, W, 3), in front of a graph: resized, normalised and padded, as `image.py` does it.

The resize is Pillow's antialiased bilinear filter in integers: weights of 22 bits; across, rounded to bytes, then down.
Pillow computes its weights in double precision; here they are exact fractions, rounded.
"""

from __future__ import annotations

import numpy as np
import onnx_ir

from glip_export.config import ImageConfig
from glip_export.graphs.bake.operators import Operators, ints, replace_input

PIXELS = "image"
_BITS = 22  # of Pillow's weights: 32 less 8 of a byte and 2 of head room
INT32 = onnx_ir.DataType.INT32
FLOAT = onnx_ir.DataType.FLOAT


def take_pixels(graph: onnx_ir.Graph, config: ImageConfig, image_size: tuple[int, int] | None) -> None:
    """Puts `image`, uint8 (H, W, 3), in the place of images and image_sizes, in place; boxes are in its own pixels.

    image_size: what a static graph is padded to. The number of pictures is 1.
    """
    op = Operators(graph, PIXELS)
    given = onnx_ir.Value(
        name=PIXELS, type=onnx_ir.TensorType(onnx_ir.DataType.UINT8), shape=onnx_ir.Shape(["picture_H", "picture_W", 3])
    )
    height, width = (op("Cast", op.side(given, axis), to=INT32) for axis in (0, 1))  # (1,) each
    new_height, new_width = _fitted(op, *_resized(op, height, width, config), image_size)
    across = _resample(op, given, width, new_width, axis=1)
    small = _resample(op, across, height, new_height, axis=0)
    images = _padded(op, _normalised(op, small, config), (new_height, new_width), config, image_size)
    sizes = op("Unsqueeze", op("Cast", op("Concat", new_height, new_width, axis=0), to=onnx_ir.DataType.INT64), ints(0))
    replace_input(graph, "images", images)
    if any(value.name == "image_sizes" for value in graph.inputs):
        replace_input(graph, "image_sizes", sizes)
    graph.inputs.insert(0, given)
    op.before_the_graph()
    _restore(graph, (height, width), (new_height, new_width))


def _resized(
    op: Operators, height: onnx_ir.Value, width: onnx_ir.Value, config: ImageConfig
) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    """`image.resize_shape`: the short side to min_size, unless the long side would exceed max_size."""
    short, long = op("Min", height, width), op("Max", height, width)
    wanted, most = np.int32(config.min_size), np.int32(config.max_size)
    exceeds = op("Greater", op("Mul", long, wanted), op("Mul", short, most))
    doubled = op("Mul", op("Mul", short, most), np.int32(2))
    half_up = op("Div", op("Add", doubled, long), op("Mul", long, np.int32(2)))  # round(most * short / long)
    is_tie = op("Equal", op("Add", doubled, long), op("Mul", op("Mul", half_up, long), np.int32(2)))
    is_odd = op("Equal", op("Mod", half_up, np.int32(2)), np.int32(1))
    rounded = op("Sub", half_up, op("Cast", op("And", is_tie, is_odd), to=INT32))  # a half goes to the even number
    size = op("Where", exceeds, rounded, wanted)
    longer = op("Div", op("Mul", size, long), short)
    stays = op("Equal", short, size)
    short, long = op("Where", stays, short, size), op("Where", stays, long, longer)
    upright = op("Less", width, height)
    return op("Where", upright, long, short), op("Where", upright, short, long)


def _fitted(
    op: Operators, height: onnx_ir.Value, width: onnx_ir.Value, limit: tuple[int, int] | None
) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    """`image._fit`: shrunk further, sides in proportion, into a static graph's size."""
    if limit is None:
        return height, width
    h, w = np.int32(limit[0]), np.int32(limit[1])
    by_height = op("Less", op("Mul", width, h), op("Mul", height, w))  # h / height is the smaller scale
    fits = op("And", op("LessOrEqual", height, h), op("LessOrEqual", width, w))
    new_height = op("Where", by_height, h, op("Max", op("Div", op("Mul", height, w), width), np.int32(1)))
    new_width = op("Where", by_height, op("Max", op("Div", op("Mul", width, h), height), np.int32(1)), w)
    return op("Where", fits, height, new_height), op("Where", fits, width, new_width)


def _resample(op: Operators, pixels: onnx_ir.Value, old: onnx_ir.Value, new: onnx_ir.Value, axis: int) -> onnx_ir.Value:
    """uint8 (H, W, 3) with one axis of `old` places resampled to `new`, both int32 (1,)."""
    zero, one, two = np.int32(0), np.int32(1), np.int32(2)
    larger = op("Max", old, new)
    places = op("Range", zero, op("Squeeze", new), one)  # (new,)
    centre = op("Mul", op("Add", op("Mul", places, two), one), old)  # of each in old places, times 2 * new
    reach = op("Mul", larger, two)  # the filter's, times 2 * new
    # The first place within reach is floor(centre - reach + 1 / 2), clipped to the picture.
    first = op("Div", op("Max", op("Add", op("Sub", centre, reach), new), zero), op("Mul", new, two))
    taps = op("Add", op("Mul", op("Div", op("Sub", op("Add", larger, new), one), new), two), one)
    last = op("Sub", old, one)
    number = op("Unsqueeze", op("Range", zero, op("Squeeze", taps), one), ints(0))  # (1, taps)
    place = op("Add", op("Unsqueeze", first, ints(1)), number)  # (new, taps)
    middle = op("Mul", op("Add", op("Mul", place, two), one), new)
    distance = op("Abs", op("Sub", middle, op("Unsqueeze", centre, ints(1))))
    inside = op("LessOrEqual", place, last)
    weight = op("Where", inside, op("Max", op("Sub", reach, distance), zero), zero)  # int32 (new, taps)
    scaled = _scaled(op, weight, op("ReduceSum", weight, ints(1), keepdims=1))
    place = op("Min", place, last)
    total = _sum_of_taps(op, pixels, place, scaled, taps, axis)
    rounded = op("Div", op("Add", total, np.int32(1 << _BITS - 1)), np.int32(1 << _BITS))
    return op("Cast", rounded, to=onnx_ir.DataType.UINT8)


def _scaled(op: Operators, weight: onnx_ir.Value, total: onnx_ir.Value) -> onnx_ir.Value:
    """weight / total in units of 2**-22, rounded: by long division, so that no number passes 31 bits."""
    quotient: onnx_ir.Value | None = None
    rest = weight
    for bits in (8, 8, 6):
        shifted = op("Mul", rest, np.int32(1 << bits))
        part = op("Div", shifted, total)
        rest = op("Sub", shifted, op("Mul", part, total))
        quotient = part if quotient is None else op("Add", op("Mul", quotient, np.int32(1 << bits)), part)
    assert quotient is not None
    up = op("GreaterOrEqual", op("Mul", rest, np.int32(2)), total)
    return op("Add", quotient, op("Cast", up, to=INT32))


def _sum_of_taps(
    op: Operators, pixels: onnx_ir.Value, place: onnx_ir.Value, weight: onnx_ir.Value, taps: onnx_ir.Value, axis: int
) -> onnx_ir.Value:
    """int32 (.., new, ..): the weighted sum of `taps` places, one after the other, in the memory of one.

    place, weight: int32 (new, taps).
    """
    number = onnx_ir.Value(name=f"{op.prefix}.tap.{axis}", type=_type(onnx_ir.DataType.INT64), shape=onnx_ir.Shape([]))
    goes_on = onnx_ir.Value(name=f"{op.prefix}.on.{axis}", type=_type(onnx_ir.DataType.BOOL), shape=onnx_ir.Shape([]))
    before = onnx_ir.Value(name=f"{op.prefix}.sum.{axis}", type=_type(INT32))
    body = onnx_ir.Graph([number, goes_on, before], [], nodes=[], name=f"taps_{axis}")
    inner = Operators(op.graph, f"{op.prefix}.taps.{axis}")
    taken = inner("Cast", inner("Gather", pixels, inner("Gather", place, number, axis=1), axis=axis), to=INT32)
    shape = np.array([[1, -1, 1], [-1, 1, 1]][1 - axis], np.int64)
    factor = inner("Reshape", inner("Gather", weight, number, axis=1), shape)
    after = inner("Add", before, inner("Mul", taken, factor))
    same = inner("Identity", goes_on)
    same.type, after.type = goes_on.type, before.type
    body.extend(inner.nodes)
    body.outputs.extend([same, after])
    start = op(
        "Mul",
        op("Cast", op("Gather", pixels, op("Gather", place, np.int64(0), axis=1), axis=axis), to=INT32),
        np.int32(0),
    )
    trips = op("Squeeze", op("Cast", taps, to=onnx_ir.DataType.INT64))
    return op("Loop", trips, np.bool_(True), start, body=body)


def _normalised(op: Operators, pixels: onnx_ir.Value, config: ImageConfig) -> onnx_ir.Value:
    """uint8 RGB (h, w, 3) -> f32 (1, 3, h, w), in the configuration's order of channels."""
    if config.bgr255:
        pixels = op("Gather", pixels, ints(2, 1, 0), axis=2)
    values = op("Cast", op("Transpose", pixels, perm=[2, 0, 1]), to=FLOAT)
    if not config.bgr255:
        values = op("Div", values, np.float32(255))
    mean, std = (np.array(numbers, np.float32).reshape(3, 1, 1) for numbers in (config.mean, config.std))
    return op("Unsqueeze", op("Div", op("Sub", values, mean), std), ints(0))


def _padded(
    op: Operators,
    images: onnx_ir.Value,
    size: tuple[onnx_ir.Value, onnx_ir.Value],
    config: ImageConfig,
    image_size: tuple[int, int] | None,
) -> onnx_ir.Value:
    """(1, 3, h, w) with zeros below and on the right."""
    missing = []
    for place, side in enumerate(size):
        divisor = np.int32(config.size_divisor)
        if image_size is not None:
            whole = op.constant(np.array([image_size[place]], np.int32))
        else:
            whole = op("Mul", op("Div", op("Add", side, np.int32(config.size_divisor - 1)), divisor), divisor)
        missing.append(op("Cast", op("Sub", whole, side), to=onnx_ir.DataType.INT64))
    return op("Pad", images, op("Concat", ints(0, 0, 0, 0, 0, 0), *missing, axis=0))


def _restore(
    graph: onnx_ir.Graph, old: tuple[onnx_ir.Value, onnx_ir.Value], new: tuple[onnx_ir.Value, onnx_ir.Value]
) -> None:
    """`image.restore_boxes`: boxes in the pixels of the picture as given."""
    op = Operators(graph, "restored")
    y, x = (op("Div", op("Cast", a, to=FLOAT), op("Cast", b, to=FLOAT)) for a, b in zip(old, new, strict=True))
    boxes = graph.outputs[0]
    restored = op("Mul", boxes, op("Concat", x, y, x, y, axis=0))
    restored.type, restored.shape = boxes.type, boxes.shape
    boxes.name, restored.name = "boxes.resized", boxes.name
    graph.extend(op.nodes)
    graph.outputs[0] = restored
    for value in graph.outputs:
        value.shape = onnx_ir.Shape([1, *tuple(value.shape or ())[1:]])


def _type(dtype: onnx_ir.DataType) -> onnx_ir.TensorType:
    return onnx_ir.TensorType(dtype)
