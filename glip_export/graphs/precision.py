"""A float32 graph as a strongly typed float16 or bfloat16 graph with float32 islands."""

from __future__ import annotations

from collections.abc import Collection

import ml_dtypes
import numpy as np
import onnx_ir

from glip_export.bundle import Bundle
from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import GraphSpec, graphs_of
from glip_export.graphs.fused_nodes import FLOAT32_INPUTS, LOW_INPUTS
from glip_export.graphs.int8_typing import with_int8_products
from glip_export.graphs.islands import float32_nodes, is_float
from glip_export.graphs.quantized import without_quantization

FLOAT = onnx_ir.DataType.FLOAT
LOW_TYPES = {"fp16": onnx_ir.DataType.FLOAT16, "bf16": onnx_ir.DataType.BFLOAT16}
PRECISIONS = ("fp32", *LOW_TYPES)
INT8 = "int8"

_ANY_TYPE = frozenset({"Cast", "Shape", "Size"})  # read every type as it is
_ALWAYS_FLOAT32 = {"Resize": {1, 2}, **FLOAT32_INPUTS}  # inputs, by place: the region and the scales


def converted_graphs(bundle: Bundle, precision: str) -> dict[str, onnx_ir.Model]:
    """Each graph of a bundle in this precision, by name; see `typed`."""
    specs = graphs_of(bundle.config)
    return {name: typed(onnx_ir.load(bundle.graph_path(name)), spec, precision) for name, spec in specs.items()}


def typed(model: onnx_ir.Model, spec: GraphSpec, precision: str) -> onnx_ir.Model:
    """`convert` of an fp32 graph; "int8", of an int8 bundle's: its products in int8, the rest as in fp16."""
    if precision != INT8:
        return convert(model, spec, precision)
    return with_int8_products(convert(without_quantization(model), spec, "fp16"), model)


def convert(
    model: onnx_ir.Model, spec: GraphSpec, precision: str, islands: Collection[str] | None = None
) -> onnx_ir.Model:
    """A new model of this precision; the given one is not changed, and shares the weights that stay float32.

    Every float32 value becomes float16 or bfloat16, but those of the islands (graphs/islands.py; islands: names of
    ISLANDS, to leave some out of a measurement). Casts stand at the borders only, one a value and type. Inputs and
    outputs keep the contract's types. Weights beyond the type's range are clamped to its largest finite value, which
    as a mask masks as well. Raises GlipExportError for another precision, or a model that is not this graph in fp32.
    """
    if precision not in PRECISIONS:
        raise GlipExportError(f"no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    _check_is_float32(model, spec)
    converted = model.clone()
    if precision in LOW_TYPES:
        _Typing(converted.graph, LOW_TYPES[precision]).apply(float32_nodes(converted.graph, islands))
    converted.metadata_props["glip.precision"] = precision
    return converted


class _Typing:
    """Gives every float of one graph its type, in place."""

    def __init__(self, graph: onnx_ir.Graph, low: onnx_ir.DataType) -> None:
        self.graph = graph
        self.low = low
        self.retyped: dict[tuple[onnx_ir.Value, onnx_ir.DataType], onnx_ir.Value] = {}

    def apply(self, wide: set[onnx_ir.Node]) -> None:
        outputs = list(self.graph.outputs)
        floats = {value for node in self.graph for value in (*node.inputs, *node.outputs) if is_float(value)}
        for node in list(self.graph):
            wanted = FLOAT if node in wide else self.low
            self._type_inputs(node, wanted, floats)
            self._type_outputs(node, wanted, floats)
        for place, value in enumerate(outputs):
            if value in floats and value.dtype != FLOAT:
                self._keep_output(place, value)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]

    def _type_inputs(self, node: onnx_ir.Node, wanted: onnx_ir.DataType, floats: set[onnx_ir.Value]) -> None:
        if node.op_type in _ANY_TYPE:
            return
        for place, value in enumerate(node.inputs):
            if value is not None and value in floats:
                if place in _ALWAYS_FLOAT32.get(node.op_type, ()):
                    wanted_here = FLOAT
                elif place in LOW_INPUTS.get(node.op_type, ()):
                    wanted_here = self.low
                else:
                    wanted_here = wanted
                node.replace_input_with(place, self._as(value, wanted_here))

    def _type_outputs(self, node: onnx_ir.Node, wanted: onnx_ir.DataType, floats: set[onnx_ir.Value]) -> None:
        given = [value for value in node.outputs if value in floats]
        if given and node.op_type == "Cast":
            node.attributes["to"] = onnx_ir.AttrInt64("to", wanted)
        for value in given:
            value.type = onnx_ir.TensorType(wanted)  # not .dtype: the type object is the given model's too

    def _as(self, value: onnx_ir.Value, dtype: onnx_ir.DataType) -> onnx_ir.Value:
        """The value in this type, cast at most once."""
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self.retyped:
            made = self._initializer(value) if value.is_initializer() else self._cast(value, dtype)
            self.retyped[value, dtype] = made
        return self.retyped[value, dtype]

    def _initializer(self, value: onnx_ir.Value) -> onnx_ir.Value:
        name = f"{value.name}_{self.low.name.lower()}"
        tensor = onnx_ir.Tensor(_lowered(value, self.low), dtype=self.low, name=name)
        made = onnx_ir.Value(name=name, shape=value.shape, type=onnx_ir.TensorType(self.low), const_value=tensor)
        self.graph.register_initializer(made)
        return made

    def _cast(self, value: onnx_ir.Value, dtype: onnx_ir.DataType) -> onnx_ir.Value:
        node = onnx_ir.node("Cast", [value], {"to": dtype})
        made, source = node.outputs[0], value.producer()
        made.name, made.shape, made.type = f"{value.name}_{dtype.name.lower()}", value.shape, onnx_ir.TensorType(dtype)
        node.name = made.name
        if source is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            node.metadata_props.update(source.metadata_props)
            self.graph.insert_after(source, node)
        return made

    def _keep_output(self, place: int, value: onnx_ir.Value) -> None:
        """The output's name and type on a cast of what is now of the lower type."""
        made = self._as(value, FLOAT)
        name = value.name
        value.name, made.name = f"{name}_{self.low.name.lower()}", name
        self.graph.outputs[place] = made


def _lowered(value: onnx_ir.Value, low: onnx_ir.DataType) -> np.ndarray:
    assert value.const_value is not None
    array = value.const_value.numpy()
    if np.isnan(array).any():
        raise GlipExportError(f"the weights {value.name} hold NaN: export the bundle again from a sound checkpoint")
    limit = float(ml_dtypes.finfo(low.numpy()).max)
    return np.clip(array, -limit, limit).astype(low.numpy())


def _check_is_float32(model: onnx_ir.Model, spec: GraphSpec) -> None:
    graph = model.graph
    names = [value.name for value in graph.inputs], [value.name for value in graph.outputs]
    if names != (spec.input_names, spec.output_names):
        raise GlipExportError(f"this is not the graph {spec.name}: its inputs are {', '.join(map(str, names[0]))}")
    if model.functions or any(True for node in graph for _ in _subgraphs(node)):
        raise GlipExportError(f"{spec.name}: a graph with functions or branches cannot be converted")
    values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.dtype is None or value.dtype in LOW_TYPES.values():
            raise GlipExportError(f"{spec.name}: {value.name} is {value.dtype}; only a float32 graph can be converted")


def _subgraphs(node: onnx_ir.Node) -> list[onnx_ir.Attr]:
    kinds = (onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS)
    return [attribute for attribute in node.attributes.values() if attribute.type in kinds]
