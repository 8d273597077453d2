"""The mean of a DyConv block's terms in fewer passes over the maps; in exact arithmetic it is the same.

A term is a GroupNorm's result v w + b, perhaps resized, times its own attention a, which follows from the term's mean:

    before: Mul w, Add b, (Resize,) ReduceMean, Mul a, then Concat and ReduceMean of all terms
    after:  (Resize,) ReduceMean, Mul (w a / n), Add

Scale, shift and attention are vectors of the channels; ONNX Runtime fuses none of it. At 100x152 pixels and 256
channels every pass is 16 MB read and mostly 16 MB written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir
from onnx_ir.tape import Tape

from glip_export.graphs.quantized import add_initializer

PIXELS = ([-1, -2], [-2, -1], [2, 3])
MODE = "coordinate_transformation_mode"


@dataclass(frozen=True)
class _Term:
    """(v w + b) a, and what is computed of v w + b."""

    v: onnx_ir.Value
    w: onnx_ir.Value  # (C, 1, 1), as is b
    b: onnx_ir.Value
    a: onnx_ir.Value | None
    shifted: onnx_ir.Value  # v w + b
    resize: onnx_ir.Node | None
    pool: onnx_ir.Node  # its mean over the pixels


def merge_terms(model: onnx_ir.Model) -> int:
    """Rewrites, in place, every mean of terms that it finds; returns how many. Means of others stay as they are."""
    graph, merged = model.graph, 0
    for node in list(graph):
        if node.op_type != "ReduceMean":
            continue
        terms = _terms(node)
        if terms:
            _merge(graph, node, terms)
            merged += 1
    return merged


def _merge(graph: onnx_ir.Graph, mean: onnx_ir.Node, terms: list[_Term]) -> None:
    share = add_initializer(graph, f"{mean.outputs[0].name}.share", np.array(1 / len(terms), np.float32))
    tape = Tape()
    products, shifts = [], []
    for term in terms:
        source = term.v
        if term.resize is not None:  # a weighted mean of pixels: it may come first
            term.resize.replace_input_with(0, term.v)
            source = term.resize.outputs[0]
        for reader in [use.node for use in term.shifted.uses() if use.node.op_type == "Shape"]:
            reader.replace_input_with(0, term.v)
        _shift_the_pool(graph, term, source)
        attention = tape.op("Mul", [term.a, share])
        products.append(tape.op("Mul", [source, tape.op("Mul", [attention, term.w])]))
        shifts.append(tape.op("Mul", [attention, term.b]))
    result = _sum(tape, [*products, _sum(tape, shifts)])
    onnx_ir.convenience.replace_nodes_and_values(graph, mean, [mean], tape.nodes, mean.outputs, [result])


def _shift_the_pool(graph: onnx_ir.Graph, term: _Term, source: onnx_ir.Value) -> None:
    """The mean of v w + b as that of v, then scaled and shifted."""
    pool, tape = term.pool, Tape()
    pooled = tape.op("ReduceMean", [source, *pool.inputs[1:]], dict(pool.attributes.items()))
    shifted = tape.op("Add", [tape.op("Mul", [pooled, term.w]), term.b])
    onnx_ir.convenience.replace_nodes_and_values(graph, pool, [pool], tape.nodes, pool.outputs, [shifted])


def _sum(tape: Tape, values: list[onnx_ir.Value]) -> onnx_ir.Value:
    total = values[0]
    for value in values[1:]:
        total = tape.op("Add", [total, value])
    return total


def _terms(mean: onnx_ir.Node) -> list[_Term] | None:
    """The terms that a node is the mean of: ReduceMean of the first axis of Concat of Unsqueezes."""
    stack = _made_by(mean.inputs[0], "Concat")
    if stack is None or stack.attributes["axis"].as_int() != 0 or not _reduces(mean, ([0],), keeps=False):
        return None
    found = []
    for value in stack.inputs:
        unsqueeze = _made_by(value, "Unsqueeze")
        if unsqueeze is None or _constant(unsqueeze.inputs[1]) != [0]:
            return None
        term = _term(unsqueeze.inputs[0])
        if term is None:
            return None
        found.append(term)
    return found


def _term(value: onnx_ir.Value | None) -> _Term | None:
    weighted = _made_by(value, "Mul")
    if weighted is None or len(weighted.outputs[0].uses()) != 1:
        return None
    normed, attention = weighted.inputs
    resize = _made_by(normed, "Resize")
    shifted = normed if resize is None else resize.inputs[0]
    shift = _made_by(shifted, "Add")
    scale = _made_by(shift.inputs[0], "Mul") if shift is not None else None
    if normed is None or shifted is None or shift is None or scale is None or not _is_linear(resize):
        return None
    readers = {use.node for use in normed.uses()} - {weighted}
    pools = [node for node in readers if node.op_type == "ReduceMean" and _reduces(node, PIXELS, keeps=True)]
    others = [use.node for use in shifted.uses() if use.node not in {*readers, weighted, resize}]
    v, (w, b) = scale.inputs[0], (scale.inputs[1], shift.inputs[1])
    if len(readers) != 1 or len(pools) != 1 or any(node.op_type != "Shape" for node in others):
        return None
    if v is None or w is None or b is None or not (_is_of_channels(w) and _is_of_channels(b)):
        return None
    return _Term(v, w, b, attention, shifted, resize, pools[0])


def _is_linear(resize: onnx_ir.Node | None) -> bool:
    """Whether what it makes is a mean of pixels whose weights are 1 in all."""
    if resize is None:
        return True
    given = {name: resize.attributes[name].as_string() for name in ("mode", MODE) if name in resize.attributes}
    return given.get("mode") == "linear" and given.get(MODE) != "tf_crop_and_resize"


def _reduces(node: onnx_ir.Node, axes: Sequence[list[int]], keeps: bool) -> bool:
    kept = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
    return len(node.inputs) > 1 and _constant(node.inputs[1]) in axes and bool(kept) == keeps


def _made_by(value: onnx_ir.Value | None, operator: str) -> onnx_ir.Node | None:
    """The node that makes the value, if it is of that operator."""
    maker = None if value is None else value.producer()
    return maker if maker is not None and maker.op_type == operator else None


def _constant(value: onnx_ir.Value | None) -> list[int] | None:
    return None if value is None or value.const_value is None else value.const_value.numpy().tolist()


def _is_of_channels(value: onnx_ir.Value) -> bool:
    """Whether it is stored, as (C, 1, 1)."""
    return value.const_value is not None and tuple(value.const_value.shape)[1:] == (1, 1)
