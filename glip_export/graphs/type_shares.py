"""How much of a graph is of which type: bytes of weights, and multiply-adds."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir
from onnxscript import optimizer

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import pyramid_axes
from glip_export.graphs.multiply_adds import COUNTED, DYCONV, UNCOUNTED, node_macs

# One picture and COCO's 80 names: what the project is measured with.
DEFAULT_AXES = {**pyramid_axes(800, 1216), "B": 1, "T": 194, "K": 80}

_IM2COL = "GlipDeformIm2Col"  # trt/nodes.py, which is above this module
BF16_OPSET = 22  # the first whose Conv and DeformConv take bfloat16; the graphs' operators are else as before
_FOLDED_ELEMENTS = 4096  # enough for every computed shape, too few for a feature map


@dataclass(frozen=True)
class TypeShares:
    """Amounts by the type's NumPy name, `float32`, `float16` or `bfloat16`; what is nothing is left out."""

    weight_bytes: dict[str, int]  # of the initializers that hold floats
    multiply_adds: dict[str, int]  # of the operators COUNTED, by the type of their first operand


def type_shares(model: onnx_ir.Model, axes: Mapping[str, int] | None = None) -> TypeShares:
    """Counts one graph of the contract, before or after `convert`, or lowered to TensorRT's plugin nodes.

    axes: sizes of the contract's axes, to change some of DEFAULT_AXES. Nothing is computed but shapes. Raises
    GlipExportError if the sizes do not determine a product's, or for an operator that is not counted.
    """
    weights: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        dtype = None if value.const_value is None else value.const_value.dtype
        if dtype is not None and (dtype.is_floating_point() or dtype == onnx_ir.DataType.INT8):
            weights[_type_name(value)] += value.const_value.nbytes  # type: ignore[union-attr]
    products: Counter[str] = Counter()
    of_integers = {node.name for node in model.graph if _is_of_integers(node)}
    for node in _with_sizes(model, {**DEFAULT_AXES, **(axes or {})}).graph.all_nodes():
        if macs := _macs(node):
            products["int8" if node.name in of_integers else _type_name(node.inputs[0])] += macs
    return TypeShares(dict(weights), dict(products))


def counted_axes(config: GlipConfig) -> dict[str, int]:
    """DEFAULT_AXES as far as this model can have them: its own maps, and no more tokens than its captions hold."""
    maps = pyramid_axes(DEFAULT_AXES["H"], DEFAULT_AXES["W"], config.swin.is_v2)
    return {**DEFAULT_AXES, **maps, "T": min(DEFAULT_AXES["T"], config.text.max_query_len)}


def _with_sizes(model: onnx_ir.Model, axes: Mapping[str, int]) -> onnx_ir.Model:
    """The same graph with numbers for every shape that does not depend on values."""
    sized = model.clone()
    sized.opset_imports[""] = max(sized.opset_imports[""], BF16_OPSET)
    for value in sized.graph.inputs:
        named = (dim if isinstance(dim, int) else axes.get(str(dim), dim) for dim in value.shape or ())
        value.shape = onnx_ir.Shape(named)
    for node in list(sized.graph):
        for value in node.outputs:
            value.shape = None  # the symbolic ones would be kept
        if node.op_type == _IM2COL:
            _stand_in(sized.graph, node)
        if node.op_type == DYCONV:  # which stays, to be counted: its maps are of the shapes that it is given
            for value, same in zip(node.outputs, node.inputs, strict=False):
                assert same is not None
                value.replace_all_uses_with(same)
    with _quiet():
        optimizer.fold_constants(
            sized, onnx_shape_inference=True, input_size_limit=_FOLDED_ELEMENTS, output_size_limit=_FOLDED_ELEMENTS
        )
    return sized


def _stand_in(graph: onnx_ir.Graph, plugin: onnx_ir.Node) -> None:
    """Standard operators of the plugin's output shape, (B, C*9, Ho*Wo): its own shape is nothing ONNX knows."""
    x, offset = plugin.inputs[:2]
    assert x is not None
    nodes: list[onnx_ir.Node] = []

    def add(op: str, inputs: list[onnx_ir.Value | None], **attributes: int) -> onnx_ir.Value:
        nodes.append(onnx_ir.node(op, inputs, attributes, num_outputs=1))
        nodes[-1].outputs[0].name = f"{plugin.outputs[0].name}_{len(nodes)}"
        return nodes[-1].outputs[0]

    def constant(name: str, numbers: list[int]) -> onnx_ir.Value:
        tensor = onnx_ir.tensor(numbers, dtype=onnx_ir.DataType.INT64, name=f"{plugin.outputs[0].name}_{name}")
        value = onnx_ir.val(tensor.name, const_value=tensor)
        graph.register_initializer(value)
        return value

    batch = add("Shape", [offset], start=0, end=1)
    rows = add("Mul", [add("Shape", [x], start=1, end=2), constant("taps", [9])])
    columns = add("ReduceProd", [add("Shape", [offset], start=2, end=4)], keepdims=1)
    corner = add("Slice", [x, constant("zeros", [0] * 4), constant("ones", [1] * 4)])  # one element, of the right type
    flat = add("Reshape", [corner, constant("three", [1, 1, 1])])
    columns = add("Expand", [flat, add("Concat", [batch, rows, columns], axis=0)])
    graph.insert_before(plugin, nodes)
    columns.type = x.type
    plugin.outputs[0].replace_all_uses_with(columns)
    graph.remove(plugin, safe=True)


def _macs(node: onnx_ir.Node) -> int:
    if node.op_type not in COUNTED | UNCOUNTED:
        return 0
    outputs = () if node.op_type == DYCONV else node.outputs  # which got no shape
    return node_macs(node.op_type, [_sizes(value) for value in node.inputs], [_sizes(value) for value in outputs])


def _is_of_integers(node: onnx_ir.Node) -> bool:
    """Whether both that are multiplied are dequantized, so that the product is one of integers."""
    makers = [None if value is None else value.producer() for value in node.inputs[:2]]
    return len(makers) == 2 and all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)


def _sizes(value: onnx_ir.Value | None) -> list[int]:
    if value is None:
        return []
    sizes = [] if value.shape is None else [dim for dim in value.shape if isinstance(dim, int)]
    if value.shape is None or len(sizes) < len(value.shape):
        raise GlipExportError(f"the sizes of {value.name} do not follow from those of the graph's inputs")
    return sizes


def _type_name(value: onnx_ir.Value | None) -> str:
    if value is None or value.dtype is None:
        raise GlipExportError("a product of a value without type: the graph is not one that this package made")
    return value.dtype.numpy().name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the folder's remarks on what it leaves unfolded."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
