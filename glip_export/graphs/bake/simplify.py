"""What follows from constants and known shapes, computed once; weights in int8 stay so."""

from __future__ import annotations

import onnx_ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

LARGEST = 1 << 16  # elements of a constant that is made; the windows of Swin's shifted blocks are larger


def simplify(model: onnx_ir.Model, image_size: tuple[int, int] | None) -> None:
    """Folds constants, in place; with an image size (height, width), whatever follows from it too.

    The number of pictures stays free.
    """
    graph = model.graph
    if image_size is not None:
        images = next(value for value in graph.inputs if value.name == "images")
        images.shape = onnx_ir.Shape(["B", 3, *image_size])
        for node in graph:  # what was known of them said that the sizes vary
            for value in node.outputs:
                if not value.is_graph_output():
                    value.shape = None
    fold_constants(model, onnx_shape_inference=True, input_size_limit=LARGEST, output_size_limit=LARGEST)
    for tidy in (
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(size_limit=1024),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        tidy(model)
