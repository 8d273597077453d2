"""Which nodes of a graph give shapes that depend on the values of its inputs, not on their shapes alone."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir

DATA_DEPENDENT = {"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "StringSplit", "Unique"}
SIZES = {  # inputs, by place, that decide the output's shape
    "CenterCropPad": (1,), "ConstantOfShape": (0,), "Expand": (1,), "OneHot": (1,), "Pad": (1,), "Range": (0, 1, 2),
    "ReduceMax": (1,), "ReduceSum": (1,), "Reshape": (1,), "Resize": (2, 3), "Slice": (1, 2, 3, 4), "Split": (1,),
    "Squeeze": (1,), "Tile": (1,), "TopK": (1,), "Unsqueeze": (1,),
}  # fmt: skip


def data_dependent(graph: onnx_ir.Graph) -> Iterator[str]:
    """The operator types of such nodes."""
    from_data = set(graph.inputs)
    for node in graph:
        if node.op_type in DATA_DEPENDENT or any(
            node.inputs[place] in from_data for place in SIZES.get(node.op_type, ()) if place < len(node.inputs)
        ):
            yield node.op_type
        if node.op_type not in ("Shape", "Size") and any(value in from_data for value in node.inputs):
            from_data.update(node.outputs)
