"""The selection before the NMS as one node, for a runtime that has kernels for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir
from onnx_ir import DataType
from onnx_ir.passes import common

from glip_export.config import DetectionConfig
from glip_export.errors import GlipExportError
from glip_export.trt.lower_selection import before, maker
from glip_export.trt.nodes import CANDIDATES, DOMAIN, NMS


class _Level(NamedTuple):
    """What a level's candidates are found from."""

    classes: onnx_ir.Value  # (B, N, K)
    centerness: onnx_ir.Value  # (B, 1, H, W)
    deltas: onnx_ir.Value  # (B, 4, H, W)
    scale: float  # of the deltas


def fuse_candidates(model: onnx_ir.Model, config: DetectionConfig) -> bool:
    """Puts one node GlipCandidates before the GlipNms of a fusion head, in place; whether it did.

    The graph is one of `lower`, of any precision. Inputs: the L levels' class scores float32 (B, Nl, K), their
    centerness (B, 1, Hl, Wl) and box deltas (B, 4, Hl, Wl), each as the convolutions give them, and image_sizes.
    Outputs: what GlipNms takes. Attributes: those of `config`, and `scales`, each level's factor of the deltas. A graph
    without GlipNms, or whose selection is another one, stays as it is.
    """
    graph = model.graph
    nms = next((node for node in graph if node.op_type == NMS), None)
    image_sizes = next((value for value in graph.inputs if value.name == "image_sizes"), None)
    if nms is None or image_sizes is None:
        return False
    try:
        levels = _levels(nms, config)
    except GlipExportError:
        return False
    maps = {value.dtype for level in levels for value in (level.centerness, level.deltas)}
    if len(maps) != 1 or {level.classes.dtype for level in levels} != {DataType.FLOAT}:
        return False
    node = onnx_ir.node(
        CANDIDATES,
        [
            *(level.classes for level in levels),
            *(level.centerness for level in levels),
            *(level.deltas for level in levels),
            image_sizes,
        ],
        {
            "score_threshold": float(config.score_threshold),
            "pre_nms_top_n": config.pre_nms_top_n,
            "anchor_sizes": [float(size) for size in config.anchor_sizes],
            "anchor_strides": list(config.anchor_strides),
            "scales": [level.scale for level in levels],
        },
        domain=DOMAIN,
        num_outputs=3,
        name="candidates",
    )
    graph.insert_before(nms, [node])
    for place, value in enumerate(node.outputs):
        value.name = f"candidates_{place}"
        nms.replace_input_with(place, value)
    common.RemoveUnusedNodesPass()(model)
    return True


def _levels(nms: onnx_ir.Node, config: DetectionConfig) -> list[_Level]:
    """Raises GlipExportError for a selection that is not `model.selection.level_candidates`."""
    boxes, scores, labels = nms.inputs
    joined = [maker("Concat", value).inputs for value in (boxes, scores, before("Cast", labels))]
    _insist(all(len(parts) == len(config.anchor_strides) for parts in joined), "as many levels as anchors")
    return [_level(parts, config, place) for place, parts in enumerate(zip(*joined, strict=True))]


def _level(parts: Sequence[onnx_ir.Value | None], config: DetectionConfig, place: int) -> _Level:
    """parts: what the level gives to the joined boxes, scores and labels."""
    boxes, scores, labels = parts
    best = maker("TopK", before("Max", before("Sqrt", maker("Where", scores).inputs[1])))
    _insist(_number(best.inputs[1]) == config.pre_nms_top_n, "TopK")
    _insist(before("Sub", labels) is best.outputs[1], "labels of another TopK")
    chosen = maker("Where", before("Reshape", before("Pad", best.inputs[0])))
    classes, threshold = (before("Greater", chosen.inputs[0], side) for side in (0, 1))
    product = maker("Mul", chosen.inputs[1])
    _insist(_number(threshold) == np.float32(config.score_threshold), "threshold")
    _insist(product.inputs[0] is classes, "product of other scores")
    centerness = before("Reshape", _uncast(before("Sigmoid", before("Unsqueeze", product.inputs[1]))))

    centre = maker("Add", before("Sub", before("Concat", before("Max", before("Min", boxes)))))
    gathered = before("Slice", before("Div", before("Mul", centre.inputs[0])))
    anchor = maker("Add", before("Slice", before("Add", before("Div", centre.inputs[1]))))
    stride, size = config.anchor_strides[place], config.anchor_sizes[place]
    reach, middle = (size - 1) / 2, (stride - 1) / 2
    corners = np.array([middle - reach] * 2 + [middle + reach] * 2, np.float32)
    _insist(np.array_equal(_array(anchor.inputs[1]), corners), "anchors")
    _insist(_number(before("Mul", anchor.inputs[0], 1)) == stride, "anchors' stride")
    deltas = before("Reshape", _uncast(before("Transpose", before("GatherElements", gathered))))
    scaled = _value(_uncast(deltas))
    by = scaled.producer()
    scale = 1.0
    if by is not None and by.op_type == "Mul" and by.inputs[1] is not None and by.inputs[1].const_value is not None:
        scaled, scale = _value(_uncast(by.inputs[0])), float(_number(by.inputs[1]))
    return _Level(classes, _value(_uncast(centerness)), scaled, scale)


def _uncast(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """What was cast to float32, if it was float16."""
    node = value.producer() if value is not None else None
    source = node.inputs[0] if node is not None and node.op_type == "Cast" else None
    return source if source is not None and source.dtype == DataType.FLOAT16 else value


def _array(value: onnx_ir.Value | None) -> np.ndarray:
    constant = value.const_value if value is not None else None
    _insist(constant is not None, "a constant")
    return constant.numpy()  # type: ignore[union-attr]


def _number(value: onnx_ir.Value | None) -> float:
    array = _array(value)
    _insist(array.size == 1, "one number")
    return array.item()


def _value(value: onnx_ir.Value | None) -> onnx_ir.Value:
    _insist(value is not None, "an input")
    return value  # type: ignore[return-value]


def _insist(is_so: bool, what: str) -> None:
    if not is_so:
        raise GlipExportError(f"the graph's selection is not the exporter's: {what}")
