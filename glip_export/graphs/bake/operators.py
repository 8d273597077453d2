"""ONNX operators put together by calls, where a graph gets a new beginning."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir

Operand = onnx_ir.Value | np.ndarray | np.generic


class Operators:
    """Makes nodes for a graph; arrays among the operands become its initializers."""

    def __init__(self, graph: onnx_ir.Graph, prefix: str) -> None:
        self.graph = graph
        self.prefix = prefix  # of every name that is made
        self.nodes: list[onnx_ir.Node] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx_ir.Value] = {}

    def __call__(self, op_type: str, *operands: Operand | None, **attributes: Any) -> onnx_ir.Value:
        """One operator of one output."""
        inputs = [self.constant(value) if isinstance(value, np.ndarray | np.generic) else value for value in operands]
        node = onnx_ir.node(op_type, inputs, attributes)
        node.name = node.outputs[0].name = f"{self.prefix}.{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, array: np.ndarray | np.generic) -> onnx_ir.Value:
        """An initializer, one for equal arrays."""
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"{self.prefix}.constant.{len(self._constants)}"
            value = onnx_ir.Value(
                name=name,
                type=onnx_ir.TensorType(onnx_ir.DataType.from_numpy(array.dtype)),
                shape=onnx_ir.Shape(array.shape),
                const_value=onnx_ir.tensor(array, name=name),
            )
            self.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def side(self, value: onnx_ir.Value, axis: int) -> onnx_ir.Value:
        """The length of an axis, int64 (1,)."""
        return self("Shape", value, start=axis, end=axis + 1)

    def before_the_graph(self) -> None:
        """Puts the nodes in front of all others."""
        self.graph.insert_before(self.graph[0], self.nodes)


def ints(*numbers: int) -> np.ndarray:
    """int64 (n,)."""
    return np.array(numbers, np.int64)


def replace_input(graph: onnx_ir.Graph, name: str, value: onnx_ir.Value) -> None:
    """What the graph was given under that name is `value` now, and is called so."""
    given = input_of(graph, name)
    graph.inputs.remove(given)
    given.replace_all_uses_with(value)
    value.type, value.shape = given.type, given.shape
    given.name, value.name = f"{name}.given", name


def input_of(graph: onnx_ir.Graph, name: str) -> onnx_ir.Value:
    """The graph's input of that name."""
    return next(value for value in graph.inputs if value.name == name)
