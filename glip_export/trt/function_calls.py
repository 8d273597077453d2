"""ONNX functions in a model: calls that are to be inlined, and functions that stand for plugins."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir
import onnxscript
from onnx_ir.passes import Sequential, common

from glip_export.trt.nodes import DOMAIN, OPSET


def add_functions(model: onnx_ir.Model, functions: Sequence[onnxscript.OnnxFunction]) -> None:
    """The nodes of their names in the domain `glip` become calls of these functions, in place."""
    for function in functions:
        added = onnx_ir.serde.deserialize_function(function.to_function_proto())
        for value in added.outputs:
            value.type = value.shape = None  # the annotations' float32 of rank 0: a function gives what it is given
        # A model may be of a later opset than the functions; up to 22 that adds types alone to their operators.
        added.opset_imports[""] = model.opset_imports[""]
        model.functions[added.identifier()] = added
    model.opset_imports[DOMAIN] = OPSET


def inline(model: onnx_ir.Model, functions: Sequence[onnxscript.OnnxFunction]) -> None:
    """Writes the functions' nodes in the place of their calls, in place, and clears up behind it.

    The nodes keep the metadata of the call. What several calls compute alike is computed once.
    """
    add_functions(model, functions)
    passes = Sequential(
        common.RemoveUnusedNodesPass(),
        common.InlinePass(),
        common.RemoveUnusedFunctionsPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
    )
    passes(model)
