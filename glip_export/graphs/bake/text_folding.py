"""All that depends on the text alone, computed once and put into the graph as constants.

Of a value that depends on pictures only their number is known to be of no matter: text that is cut into heads takes
its shape from the batch, but its numbers are the same for every picture. So what reads text, shapes and the batch's
size alone is computed for one picture; the constant has one row, which the readers broadcast.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import numpy as np
import onnx_ir
import onnxruntime
from onnx_ir.passes import common
from onnx_ir.tape import Tape

from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import LEVELS

# Operators that take one row for as many as their other operand has.
_BROADCASTING = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "MatMul", "Max", "Min", "Mul",
     "Or", "Pow", "PRelu", "Sub", "Where", "Xor"}
)  # fmt: skip


class Kind(Enum):
    """What a value depends on."""

    CONSTANT = "weights alone"
    SIZE = "the number of tokens or classes"  # with nothing of the batch in it
    BATCH = "the number of pictures"
    TEXT = "the text"  # (B, ...), every picture's the same
    PICTURE = "pictures"


def fold_text(model: onnx_ir.Model, text: Mapping[str, np.ndarray]) -> int:
    """Puts the text, by the inputs' names and (1, ...) each, into the graph; gives how many nodes that made needless.

    In place: the inputs are gone, and what was computed of them alone too. Raises GlipExportError for a graph that
    reads a text's shape in a way that no exported graph does.
    """
    graph = model.graph
    before = len(graph)
    _batch_from_pictures(graph, text)
    kinds = _kinds(graph, text)
    frontier = _frontier(graph, kinds)
    computed = _run(model, kinds, [value for value in frontier if value.name not in text], text)
    given = [value for value in graph.inputs if value.name in text]
    known = {**computed, **text}
    for value in frontier:
        _replace(graph, kinds, value, known[str(value.name)])
    for value in given:
        graph.inputs.remove(value)
    common.RemoveUnusedNodesPass()(model)
    return before - len(graph)


def _batch_from_pictures(graph: onnx_ir.Graph, text: Mapping[str, np.ndarray]) -> None:
    """The size of the batch read from the pictures wherever it was read from the text's inputs."""
    images = next(value for value in graph.inputs if value.name == "images")
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Shape" else None
        if source is None or not source.is_graph_input() or source.name not in text:
            continue
        start, end = _range(node)
        if start == 0 and end == 1:
            node.replace_input_with(0, images)
        elif start == 0:
            raise GlipExportError(f"{node.name} reads the whole shape of {source.name}: export the bundle again")


def _kinds(graph: onnx_ir.Graph, text: Mapping[str, np.ndarray]) -> dict[onnx_ir.Value, Kind]:
    kinds = {value: Kind.TEXT if value.name in text else Kind.PICTURE for value in graph.inputs}
    kinds |= dict.fromkeys(graph.initializers.values(), Kind.CONSTANT)
    for node in graph:
        kind = _kind_of(node, kinds)
        kinds |= dict.fromkeys(node.outputs, kind)
    return kinds


def _kind_of(node: onnx_ir.Node, kinds: dict[onnx_ir.Value, Kind]) -> Kind:
    read = {kinds[value] for value in node.inputs if value is not None}
    if node.op_type == "Shape":
        if read == {Kind.TEXT}:
            return Kind.SIZE if _range(node)[0] > 0 else Kind.PICTURE
        if _reads_batch(node):
            return Kind.BATCH
        return read.pop() if len(read) == 1 else Kind.PICTURE
    for kind in (Kind.PICTURE, Kind.TEXT, Kind.BATCH, Kind.SIZE):
        if kind in read:
            return kind
    return Kind.CONSTANT


def _reads_batch(node: onnx_ir.Node) -> bool:
    source = node.inputs[0]
    whole = source is not None and (source.is_graph_input() or source.name in LEVELS)
    return node.op_type == "Shape" and _range(node) == (0, 1) and whole


def _range(node: onnx_ir.Node) -> tuple[int, int | None]:
    start, end = (node.attributes.get(name) for name in ("start", "end"))
    return (0 if start is None else start.as_int()), (None if end is None else end.as_int())


def _frontier(graph: onnx_ir.Graph, kinds: dict[onnx_ir.Value, Kind]) -> list[onnx_ir.Value]:
    """Values of text or of its sizes that something reads which is computed at every picture."""
    found: dict[onnx_ir.Value, None] = {}
    for node in graph:
        if kinds[node.outputs[0]] in (Kind.PICTURE, Kind.BATCH):
            found |= {value: None for value in node.inputs if value and kinds[value] in (Kind.TEXT, Kind.SIZE)}
    return list(found)


def _run(
    model: onnx_ir.Model,
    kinds: dict[onnx_ir.Value, Kind],
    wanted: list[onnx_ir.Value],
    text: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The wanted values, computed by ONNX Runtime for one picture."""
    if not wanted:
        return {}
    names = [str(value.name) for value in wanted]
    part = model.clone()
    graph = part.graph
    by_name = {value.name: value for node in graph for value in node.outputs}
    one = onnx_ir.Value(name="one_picture", const_value=onnx_ir.tensor(np.array([1], np.int64)))
    graph.register_initializer(one)
    for node in graph:
        if _reads_batch(node):
            node.outputs[0].replace_all_uses_with(one)
    graph.outputs[:] = [by_name[name] for name in names]
    common.RemoveUnusedNodesPass()(part)
    graph.inputs[:] = [value for value in graph.inputs if value.uses()]
    onnx_ir.external_data.load_to_model(part)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        onnx_ir.to_proto(part).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {given.name: text[given.name] for given in session.get_inputs()}
    return dict(zip(names, session.run(names, feed), strict=True))


def _replace(graph: onnx_ir.Graph, kinds: dict[onnx_ir.Value, Kind], value: onnx_ir.Value, array: np.ndarray) -> None:
    """The value as a constant of the same name, expanded for a reader that does not broadcast."""
    constant = onnx_ir.Value(
        name=value.name,
        type=onnx_ir.TensorType(onnx_ir.DataType.from_numpy(array.dtype)),
        shape=onnx_ir.Shape(array.shape),
        const_value=onnx_ir.tensor(array, name=value.name),
    )
    value.name = f"{value.name}.folded"
    graph.register_initializer(constant)
    whole: onnx_ir.Value | None = None
    for node, place in tuple(value.uses()):
        if kinds[node.outputs[0]] in (Kind.TEXT, Kind.SIZE):
            continue  # computed once, and needless now
        if kinds[value] is Kind.SIZE or node.op_type in _BROADCASTING:
            node.replace_input_with(place, constant)
            continue
        whole = whole or _expanded(graph, constant)
        node.replace_input_with(place, whole)


def _expanded(graph: onnx_ir.Graph, constant: onnx_ir.Value) -> onnx_ir.Value:
    """(1, ...) as (B, ...)."""
    images = next(value for value in graph.inputs if value.name == "images")
    rest = onnx_ir.Value(
        name=f"{constant.name}.rows",
        type=onnx_ir.TensorType(onnx_ir.DataType.INT64),
        shape=onnx_ir.Shape([len(constant.shape or ()) - 1]),
        const_value=onnx_ir.tensor(np.array((constant.shape or ())[1:], np.int64)),
    )
    graph.register_initializer(rest)
    tape = Tape()
    batch = tape.op("Shape", [images], {"start": 0, "end": 1})
    whole = tape.op("Expand", [constant, tape.op("Concat", [batch, rest], {"axis": 0})])
    whole.name, whole.type = f"{constant.name}.expanded", constant.type
    whole.shape = onnx_ir.Shape(["B", *(constant.shape or ())[1:]])
    graph.insert_before(graph[0], tape.nodes)
    return whole
