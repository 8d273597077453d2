"""From node to node of a graph, and to its constants."""

from __future__ import annotations

import numpy as np
import onnx_ir
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def producer_of(value: onnx_ir.Value | None) -> onnx_ir.Node:
    """The node that makes the value. Raises ValueError for an input of the graph."""
    node = value_of(value).producer()
    if node is None:
        raise ValueError(f"{name_of(value)} is an input of the graph")
    return node


def reader_of(node: onnx_ir.Node) -> onnx_ir.Node:
    """The one node that reads the node's first output. Raises ValueError for another number of readers."""
    (use,) = node.outputs[0].uses()
    return use.node


def value_of(value: onnx_ir.Value | None) -> onnx_ir.Value:
    """The value. Raises ValueError where there is none."""
    if value is None:
        raise ValueError("an input that every GLIP's graph has is missing")
    return value


def name_of(value: onnx_ir.Value | None) -> str:
    """The value's name. Raises ValueError where there is no value."""
    return str(value_of(value).name)


def constant_of(value: onnx_ir.Value | None) -> F32:
    """The constant's values. Raises ValueError for a value that is none."""
    tensor = value_of(value).const_value
    if tensor is None:
        raise ValueError(f"{name_of(value)} is no constant")
    return np.asarray(tensor.numpy(), np.float32)
