"""The head's predictions of all levels at once, where each level has nodes of its own for the same calculation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir
from onnx_ir.passes import common
from onnx_ir.tape import Tape

from glip_export.errors import GlipExportError
from glip_export.trt.lower_selection import before, maker
from glip_export.trt.nodes import CANDIDATES

_BY_POSITION = frozenset(  # of each position its own result, whichever others there are
    {"Add", "Cast", "Clip", "Div", "Exp", "Log", "MatMul", "Max", "Min", "Mul", "Neg", "Sigmoid", "Softplus", "Sub"}
)
_POSITIONS_LAST = [0, 2, 1]


def join_levels(model: onnx_ir.Model) -> bool:
    """Calculates class scores, centerness and box deltas of all levels behind one another, in place; whether it did.

    The graph is one with a GlipCandidates (`fuse_candidates`), whose inputs become parts of three results: a product
    of all positions each in the place of the 1x1 convolutions, and the nodes of the first level's class scores on the
    positions of all. A graph whose levels are calculated differently, or not from one map each, stays as it is.
    """
    graph = model.graph
    node = next((node for node in graph if node.op_type == CANDIDATES), None)
    if node is None:
        return False
    levels = (len(node.inputs) - 1) // 3
    classes, centerness, deltas = (node.inputs[first : first + levels] for first in (0, levels, 2 * levels))
    try:
        chain, positions = _chain(classes)
        maps = [before("Reshape", before("Transpose", value)) for value in positions]
        layers = [_layer(values, maps) for values in (centerness, deltas)]
    except GlipExportError:
        return False
    tape = Tape()
    joined = tape.op("Concat", positions, {"axis": 1})  # (B, N, C)
    sizes = tape.op("Concat", [tape.op("Shape", [value], {"start": 1, "end": 2}) for value in positions], {"axis": 0})

    def parts(value: onnx_ir.Value) -> Sequence[onnx_ir.Value]:
        return tape.op_multi_out("Split", [value, sizes], {"axis": 1}, num_outputs=levels)

    made = list(parts(_replayed(tape, chain, joined)))
    for convolution in layers:
        made += _maps(tape, parts(_product(tape, joined, convolution)), maps, convolution)
    graph.insert_before(node, tape.nodes)
    for place, value in enumerate(made):
        node.replace_input_with(place, value)
    common.RemoveUnusedNodesPass()(model)
    return True


def _chain(values: Sequence[onnx_ir.Value | None]) -> tuple[list[tuple[onnx_ir.Node, int]], list[onnx_ir.Value]]:
    """The nodes of the first level from its positions (B, N, C) on, with the place of what differs between levels.

    And every level's positions. Raises GlipExportError where the levels' nodes are not the same.
    """
    chain: list[tuple[onnx_ir.Node, int]] = []
    while True:
        nodes = [value.producer() if value is not None else None for value in values]
        first = nodes[0]
        kinds = {None if node is None else (node.op_type, repr(dict(node.attributes))) for node in nodes}
        if first is None or len(kinds) != 1:
            raise GlipExportError("the levels are calculated differently")
        if first.op_type == "Transpose":
            return chain[::-1], [value for value in values if value is not None]
        inputs = list(zip(*(node.inputs for node in nodes if node is not None), strict=True))
        differing = [place for place, given in enumerate(inputs) if any(value is not given[0] for value in given)]
        if first.op_type not in _BY_POSITION or len(differing) != 1 or (first.op_type == "MatMul" and differing != [0]):
            raise GlipExportError(f"the levels' {first.op_type} is not of each position alone")
        chain.append((first, differing[0]))
        values = inputs[differing[0]]


def _layer(values: Sequence[onnx_ir.Value | None], maps: Sequence[onnx_ir.Value]) -> onnx_ir.Node:
    """The 1x1 convolution of the levels' maps. Raises GlipExportError for other ones."""
    nodes = [maker("Conv", value) for value in values]
    given = {(node.inputs[1], node.inputs[2]) for node in nodes}
    weight = nodes[0].inputs[1]
    alike = len(given) == 1 and all(node.inputs[0] is one for node, one in zip(nodes, maps, strict=True))
    if not alike or weight is None or weight.const_value is None or tuple(weight.const_value.shape)[2:] != (1, 1):
        raise GlipExportError("the levels are convolved differently")
    return nodes[0]


def _replayed(tape: Tape, chain: Sequence[tuple[onnx_ir.Node, int]], value: onnx_ir.Value) -> onnx_ir.Value:
    for node, place in chain:
        inputs = [value if at == place else given for at, given in enumerate(node.inputs)]
        value = tape.op(node.op_type, inputs, {name: given.value for name, given in node.attributes.items()})
        value.type = node.outputs[0].type
    return value


def _product(tape: Tape, positions: onnx_ir.Value, convolution: onnx_ir.Node) -> onnx_ir.Value:
    """The convolution of positions (B, N, C): (B, N, outputs)."""
    _, weight, bias = convolution.inputs
    outputs, channels = _shape(weight)[:2]
    rows = tape.op("Reshape", [positions, _constant(tape, [-1, channels])])
    matrix = tape.op("Reshape", [weight, _constant(tape, [outputs, channels])])
    made = tape.op("Gemm", [rows, matrix, bias], {"transB": 1})
    shape = [tape.op("Shape", [positions], {"start": 0, "end": 2}), _constant(tape, [outputs])]
    return tape.op("Reshape", [made, tape.op("Concat", shape, {"axis": 0})])


def _maps(
    tape: Tape, parts: Sequence[onnx_ir.Value], maps: Sequence[onnx_ir.Value], convolution: onnx_ir.Node
) -> list[onnx_ir.Value]:
    """Each level's (B, N, outputs) as the convolution gives it: (B, outputs, H, W)."""
    outputs = _constant(tape, [_shape(convolution.inputs[1])[0]])
    made = []
    for part, like in zip(parts, maps, strict=True):
        sides = [tape.op("Shape", [like], {"start": start, "end": end}) for start, end in ((0, 1), (2, 4))]
        shape = tape.op("Concat", [sides[0], outputs, sides[1]], {"axis": 0})
        made.append(tape.op("Reshape", [tape.op("Transpose", [part], {"perm": _POSITIONS_LAST}), shape]))
    return made


def _shape(weight: Any) -> list[int]:
    return [int(size) for size in weight.const_value.shape]


def _constant(tape: Tape, values: list[int]) -> onnx_ir.Value:
    return tape.op("Constant", [], {"value": onnx_ir.Tensor(np.array(values, np.int64))})
