"""The pictures' sizes read from their padding, so that a graph needs nothing but the pictures.

A padded place is zero in all three channels; a real pixel is not, for the means that are subtracted are no bytes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir

from glip_export.config import ImageConfig
from glip_export.graphs.bake.compose import SIZES
from glip_export.graphs.bake.operators import Operators, input_of, ints, replace_input


def padding_tells(config: ImageConfig) -> bool:
    """Whether no pixel is zero in all channels once it is normalised."""
    values = np.arange(256, dtype=np.float32)
    if not config.bgr255:
        values = values / np.float32(255)
    return any(not (values == np.float32(mean)).any() for mean in config.mean)


def sizes_from_padding(graph: onnx_ir.Graph) -> None:
    """Puts what padding tells in the place of the input image_sizes, int64 (B, 2) as h and w, in place."""
    images = input_of(graph, "images")
    op = Operators(graph, SIZES)
    one, nothing = np.int64(1), np.float32(0)
    seen = op("ReduceMax", op("Abs", images), ints(1), keepdims=0)  # (B, H, W)
    sides = []
    for axis, other in ((2, 2), (3, 1)):  # of the pictures, and what is reduced to leave it
        line = op("ReduceMax", seen, ints(other), keepdims=0)  # (B, side)
        places = op("Range", one, op("Add", op("Squeeze", op.side(images, axis)), one), one)
        numbers = op("Cast", places, to=onnx_ir.DataType.FLOAT)
        marked = op("Where", op("Greater", line, nothing), numbers, nothing)
        sides.append(op("ReduceMax", marked, ints(1), keepdims=1))  # (B, 1)
    sizes = op("Cast", op("Concat", *sides, axis=1), to=onnx_ir.DataType.INT64)
    replace_input(graph, SIZES, sizes)
    op.before_the_graph()
