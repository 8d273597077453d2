"""One node in the place of a whole module, for a runtime that has kernels for the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from glip_export.graphs.modules import MODULE_KEY
from glip_export.graphs.quantized import add_initializer

DOMAIN, OPSET = "glip", 1  # as in trt/nodes.py, which is above this module

# Nodes around a residual stream in float32: which of their inputs, by place, are of the lower type where there is one.
LOW_INPUTS = {"GlipSwinBlock": (3, 4, 5, 6, 10, 11, 12), "GlipTextLayer": range(2, 10)}
# And which of a node that is of the lower type are float32 all the same.
FLOAT32_INPUTS = {"GlipBiAttention": range(4, 9)}


def put_node(
    graph: onnx_ir.Graph,
    module: str,
    op_type: str,
    inputs: Sequence[str],
    parameters: Mapping[str, NDArray],
    attributes: Mapping[str, int | float | list[float]],
    outputs: Sequence[str],
) -> None:
    """Puts a node where the module's first output is made, in place; `settle` follows when all are put.

    inputs, outputs: names of the graph's values, which the outputs keep; parameters become constants behind the inputs.
    """
    values = {value.name: value for node in graph for value in (*node.inputs, *node.outputs) if value is not None}
    replaced = [values[name] for name in outputs]
    constants = [add_initializer(graph, f"{module}.fused.{name}", array) for name, array in parameters.items()]
    given = [*(values[name] for name in inputs), *constants]
    node = onnx_ir.node(op_type, given, dict(attributes), domain=DOMAIN, num_outputs=len(replaced), name=module)
    node.metadata_props[MODULE_KEY] = module
    ends = [end for value in replaced if (end := value.producer()) is not None]  # the first stands before all readers
    onnx_ir.convenience.replace_nodes_and_values(graph, ends[0], ends, [node], replaced, node.outputs)


def settle(model: onnx_ir.Model) -> None:
    """After the last `put_node`: what nothing reads any more goes, and each node comes after what makes its inputs."""
    model.opset_imports[DOMAIN] = OPSET
    common.RemoveUnusedNodesPass()(model)
    model.graph.sort()  # a node is where the first output was made, which may be before an input
