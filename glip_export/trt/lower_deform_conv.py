"""DeformConv as columns and a matrix product: the product is TensorRT's own, to fuse and to run on tensor cores."""

from __future__ import annotations

import onnx_ir
from onnx_ir import DataType
from onnx_ir.tape import Tape

from glip_export.errors import GlipExportError
from glip_export.trt.function_calls import inline
from glip_export.trt.functions import ConvolvedColumns, GlipDeformIm2Col
from glip_export.trt.nodes import DEFORM_IM2COL, DOMAIN

# What the columns are made for; the stride alone is an attribute of theirs.
FORM: dict[str, int | tuple[int, ...]] = {
    "kernel_shape": (3, 3),
    "pads": (1, 1, 1, 1),
    "dilations": (1, 1),
    "group": 1,
    "offset_group": 1,
}
COLUMN_TYPES = (DataType.FLOAT, DataType.FLOAT16)  # of others the columns are made in float32


def lower_deform_conv(model: onnx_ir.Model, native: bool) -> None:
    """Replaces every DeformConv, in place, by columns and their product with the weight.

    The columns are made by the plugin GlipDeformIm2Col or, if native, by GridSample. Nodes that share a weight share
    its flattened copy; the weight itself stays as it is, for others that use it.
    Raises GlipExportError for a convolution that is not 3x3, padded by 1 and in one group.
    """
    flattened: dict[onnx_ir.Value | None, onnx_ir.Value] = {}
    for node in model.graph:
        if node.op_type == "DeformConv":
            weight = node.inputs[1]
            if weight not in flattened:
                flattened[weight] = _flattened(model.graph, weight)
            _replace(model.graph, node, flattened[weight])
    if flattened:
        inline(model, [ConvolvedColumns, GlipDeformIm2Col] if native else [ConvolvedColumns])


def _replace(graph: onnx_ir.Graph, node: onnx_ir.Node, weight: onnx_ir.Value) -> None:
    for name, value in FORM.items():
        given = node.attributes[name].value if name in node.attributes else value
        if given != value:
            raise GlipExportError(f"{node.name}: a DeformConv whose {name} is {given} has no form for TensorRT")
    x, _, offset, bias, mask = node.inputs
    tape = Tape()
    sampled = [x, offset, mask]
    if weight.dtype not in COLUMN_TYPES:
        sampled = [tape.op("Cast", [value], {"to": DataType.FLOAT}) for value in sampled]
    stride = node.attributes["strides"].as_ints()[0] if "strides" in node.attributes else 1
    columns = tape.op(DEFORM_IM2COL, sampled, {"stride": stride}, domain=DOMAIN, name=f"{node.name}_columns")
    if weight.dtype not in COLUMN_TYPES:
        columns = tape.op("Cast", [columns], {"to": weight.dtype})
    result = tape.op(ConvolvedColumns.name, [columns, weight, bias, offset], domain=DOMAIN)
    for new in tape.nodes:
        new.metadata_props.update(node.metadata_props)
    onnx_ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, node.outputs, [result])


def _flattened(graph: onnx_ir.Graph, weight: onnx_ir.Value | None) -> onnx_ir.Value:
    """A new initializer: the weight (O, C, 3, 3) as (O, C*9)."""
    if weight is None or weight.const_value is None:
        raise GlipExportError(f"{weight and weight.name}: the weight of a DeformConv must be a stored one")
    stored = weight.const_value
    array = stored.numpy()
    flat = onnx_ir.Tensor(array.reshape(len(array), -1), dtype=stored.dtype, name=f"{weight.name}.flattened")
    value = onnx_ir.val(f"{weight.name}.flattened", const_value=flat)
    graph.register_initializer(value)
    return value
