"""Which nodes of a graph stay in float32 when the rest goes to float16 or bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeGuard

import onnx_ir

from glip_export.graphs.fused_nodes import LOW_INPUTS

PRODUCTS = frozenset({"Conv", "DeformConv", "Gemm", "MatMul", "GlipBiAttention"})
SMALLEST = 2.0**-24  # float16's; a smaller constant would be zero

_NORMS = frozenset({"GroupNormalization", "InstanceNormalization", "LayerNormalization"})
_MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})
_ARITHMETIC = frozenset({"Add", "Clip", "Div", "Max", "Mul", "ReduceMean", "Relu", "Sub"})
_NO_HALF_FORM = frozenset({"NonMaxSuppression"})
_MOVES = frozenset(
    {
        "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape", "Slice",
        "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip

Nodes = set[onnx_ir.Node]


def float32_nodes(graph: onnx_ir.Graph, islands: Collection[str] | None = None) -> Nodes:
    """The nodes that compute in float32; all else that reads or gives floats computes in the lower type.

    The graph is sorted. islands: names of ISLANDS, all of them if not given; only measurements leave some out. Nodes
    that only move data follow what is around them, so that no value is cast down and up again.
    """
    wide: Nodes = {node for node in graph if node.op_type in _NO_HALF_FORM or node.op_type in LOW_INPUTS}
    for name in ISLANDS if islands is None else islands:
        wide |= ISLANDS[name](graph)
    return _settle_moves(graph, wide)


def is_float(value: onnx_ir.Value | None) -> TypeGuard[onnx_ir.Value]:
    """Whether the value is float32."""
    return value is not None and value.dtype == onnx_ir.DataType.FLOAT


def is_moving(node: onnx_ir.Node) -> bool:
    """Whether the node gives its input's elements unchanged, in another order or shape."""
    return node.op_type in _MOVES


def _norms(graph: onnx_ir.Graph) -> Nodes:
    return {node for node in graph if node.op_type in _NORMS}


def _softmax(graph: onnx_ir.Graph) -> Nodes:
    return {node for node in graph if node.op_type == "Softmax"}


def _residual_sums(graph: onnx_ir.Graph) -> Nodes:
    """Swin's and BERT's residual streams: sums of two activations that a norm reads."""
    norms = _norms(graph)
    before = norms | _grown(norms, _sources, is_moving)
    return {node for node in graph if node.op_type == "Add" and len(_computed(node)) == 2 and _readers(node) & before}


def _dynamic_relu(graph: onnx_ir.Graph) -> Nodes:
    """DyReLU's two lines, whose slopes and offsets stand for a whole channel, back to DyConv's weighted terms.

    The terms themselves, out of a norm's scale and bias or interpolated, are of the lower type.
    """
    lines = {node for node in graph if node.op_type == "Max" and len(_computed(node)) == len(node.inputs)}
    return lines | {node for node in _grown(lines, _sources, _is_line) if not is_moving(node)}


def _means_over_positions(graph: onnx_ir.Graph) -> Nodes:
    """Not the mean of DyConv's two or three terms, which are stacked in front."""
    return {node for node in graph if node.op_type in _MEANS and not _reduces_only_the_first(node)}


def _unit_vectors(graph: onnx_ir.Graph) -> Nodes:
    """A vector's length, whose squares overflow, and its division by it: all up to the next product."""
    lengths = {node for node in graph if node.op_type == "ReduceL2"}
    return lengths | _grown(lengths, _readers, lambda node: node.op_type not in PRODUCTS)


def _masks(graph: onnx_ir.Graph) -> Nodes:
    """What is made of integers (attention masks, window regions), and the sums and products it enters.

    A mask to which a learned bias was added (Swin's text) is still one.
    """
    masks: Nodes = set()
    for node in graph:
        from_integers = node.op_type == "Cast" and _gives_float(node) and not is_float(node.inputs[0])
        floats = [value for value in _computed(node) if not _is_weight(value)]
        if from_integers or (floats and all(value.producer() in masks for value in floats)):
            masks.add(node)
    readers = {reader for node in masks for reader in _readers(node)}
    return masks | {node for node in readers if not is_moving(node) and node.op_type not in PRODUCTS}


def _small_constants(graph: onnx_ir.Graph) -> Nodes:
    """Nodes whose scalar operand, an epsilon, float16 would round to zero, and what divides by their result."""
    found = {node for node in graph if any(_is_too_small(value) for value in node.inputs)}
    return found | _grown(found, _readers, lambda node: is_moving(node) or node.op_type == "Div")


def _position_embeddings(graph: onnx_ir.Graph) -> Nodes:
    """A table that is stretched to the picture's size, and is added to a residual stream."""
    return {node for node in graph if node.op_type == "Resize" and _is_weight(node.inputs[0])}


def _predictions(graph: onnx_ir.Graph) -> Nodes:
    """What no product reads any more: logits, scores, box decoding, selection; of the text encoder its last norm.

    The class map's own product of probabilities and classes is one of them: it has no weights.
    """
    heavy = {node for node in graph if node.op_type in PRODUCTS and not _reads_class_map(node)}
    before = heavy | _grown(heavy, _sources, lambda node: True)
    return {node for node in graph if node not in before}


# What each is good for was measured: docs/precision.md.
ISLANDS: dict[str, Callable[[onnx_ir.Graph], Nodes]] = {
    "norms": _norms,
    "residual sums": _residual_sums,
    "dynamic relu": _dynamic_relu,
    "softmax": _softmax,
    "means over positions": _means_over_positions,
    "unit vectors": _unit_vectors,
    "masks": _masks,
    "small constants": _small_constants,
    "position embeddings": _position_embeddings,
    "predictions": _predictions,
}


def _settle_moves(graph: onnx_ir.Graph, wide: Nodes) -> Nodes:
    """Adds the moving nodes that stand between float32 nodes; of weights, those that only float32 nodes read."""
    asked: Nodes = set()
    for node in reversed(graph):
        readers = _readers(node)
        if any(reader in wide or reader in asked for reader in readers) or _is_output(node):
            asked.add(node)
    settled = set(wide)
    for node in graph:
        if node in wide or node not in asked or not is_moving(node):
            continue
        floats = _computed(node)
        if any(value.producer() is None or value.producer() in settled for value in floats):
            settled.add(node)
        elif not floats and not node.op_type.startswith("Gather") and all(reader in wide for reader in _readers(node)):
            settled.add(node)  # but tables of embeddings, which are large
    return settled


def _grown(
    seeds: Nodes, step: Callable[[onnx_ir.Node], Iterable[onnx_ir.Node]], goes_on: Callable[[onnx_ir.Node], bool]
) -> Nodes:
    """What is reached from the seeds, step by step, through nodes where it goes on; those are what is returned."""
    found: Nodes = set()
    pending = list(seeds)
    while pending:
        for node in step(pending.pop()):
            if node not in found and goes_on(node):
                found.add(node)
                pending.append(node)
    return found


def _readers(node: onnx_ir.Node) -> Nodes:
    """The nodes that read its floats; their shape alone is no reading."""
    floats = (value for value in node.outputs if is_float(value))
    return {reader for value in floats for reader, _ in value.uses() if reader.op_type != "Shape"}


def _sources(node: onnx_ir.Node) -> Nodes:
    """The nodes whose floats it reads."""
    producers = (value.producer() for value in node.inputs if is_float(value))
    return {producer for producer in producers if producer is not None}


def _gives_float(node: onnx_ir.Node) -> bool:
    return any(is_float(value) for value in node.outputs)


def _is_output(node: onnx_ir.Node) -> bool:
    return any(value.is_graph_output() for value in node.outputs)


def _computed(node: onnx_ir.Node) -> list[onnx_ir.Value]:
    """Its float inputs that are no weights."""
    return [value for value in node.inputs if is_float(value) and not value.is_initializer()]


def _is_weight(value: onnx_ir.Value | None) -> bool:
    """A weight, whole or cut, in any order and shape."""
    if value is None or value.is_initializer():
        return value is not None
    node = value.producer()
    return node is not None and is_moving(node) and all(map(_is_weight, filter(is_float, node.inputs)))


def _is_line(node: onnx_ir.Node) -> bool:
    """Arithmetic on activations and plain numbers; a vector of constants is a norm's scale or bias."""
    constants = [value.const_value for value in node.inputs if is_float(value)]
    numbers = all(constant is None or constant.size == 1 for constant in constants)
    return numbers and (node.op_type in _ARITHMETIC or is_moving(node))


def _reduces_only_the_first(node: onnx_ir.Node) -> bool:
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return axes is not None and axes.numpy().tolist() == [0]


def _is_too_small(value: onnx_ir.Value | None) -> bool:
    if not is_float(value) or not value.is_initializer() or value.const_value is None:
        return False
    return value.const_value.size == 1 and 0 < abs(float(value.const_value.numpy().item())) < SMALLEST


def _reads_class_map(node: onnx_ir.Node) -> bool:
    names = (value.name for value in node.inputs if value is not None and value.producer() is None)
    return "class_map" in names
