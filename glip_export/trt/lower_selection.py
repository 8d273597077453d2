"""The selection of detections with the NMS in a plugin or on the host, and no shape that depends on values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import onnx_ir
from onnx_ir import DataType
from onnx_ir.passes import common
from onnx_ir.tape import Tape

from glip_export.config import DetectionConfig
from glip_export.errors import GlipExportError
from glip_export.trt.function_calls import inline
from glip_export.trt.functions import GlipNms, MaximumOfSlice
from glip_export.trt.native_nms import class_wise_nms
from glip_export.trt.nodes import DOMAIN, NMS, OPSET

CANDIDATES = ("candidate_boxes", "candidate_scores", "candidate_labels")  # the outputs that end at the candidates
TOKEN_SLICES = 16  # a maximum's largest tensor is (B, N, T / 16, K)


def lower_class_maximum(model: onnx_ir.Model) -> None:
    """Replaces, in place, the aggregation MAX: it gathers as many tokens a class as the class with the most has.

    A static bound on that number is T alone, and (B, N, T, K) at once is gigabytes. Instead the tokens are taken in a
    fixed number of slices: exact for every class_map.
    """
    graph = model.graph
    known = (*graph.inputs, *graph.initializers.values())  # a constant where the vocabulary is baked in
    class_map = next((value for value in known if value.name == "class_map"), None)
    gathers = [node for node in graph if node.op_type == "GatherND"]
    for gather in gathers:
        probabilities = before("Transpose", gather.inputs[0])
        maximum = _after("Transpose", _after("ReduceMax", _after("Mul", gather.outputs[0])))
        tape = Tape()
        slices = [{"number": number, "slices": TOKEN_SLICES} for number in range(TOKEN_SLICES)]
        parts = [tape.op(MaximumOfSlice.name, [probabilities, class_map], part, domain=DOMAIN) for part in slices]
        best = reduce(lambda best, part: tape.op("Max", [best, part]), parts)
        graph.insert_before(gather, tape.nodes)
        best.type, best.shape = maximum.type, maximum.shape
        maximum.replace_all_uses_with(best)
    if gathers:
        inline(model, [MaximumOfSlice])


def lower_nms(model: onnx_ir.Model, config: DetectionConfig, *, native: bool = False) -> None:
    """The candidates go into one GlipNms, in place: it suppresses, chooses the D best and fills up empty places.

    native: its steps in standard operators that TensorRT has, in place of the one node.
    """
    graph = model.graph
    boxes, scores, labels = _candidates_of_nms(graph)
    tape = Tape()
    detections = tape.op_multi_out(
        NMS,
        [boxes, scores, tape.op("Cast", [labels], {"to": DataType.INT32})],
        {"iou_threshold": float(config.nms_threshold), "max_detections": config.detections_per_image},
        num_outputs=4,
        domain=DOMAIN,
        name="nms",
    )
    results = [*detections[:2], *(tape.op("Cast", [value], {"to": DataType.INT64}) for value in detections[2:])]
    graph.extend(tape.nodes)
    for old, new in zip(tuple(graph.outputs), results, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.outputs[:] = results
    model.opset_imports[DOMAIN] = OPSET
    common.RemoveUnusedNodesPass()(model)
    if native:
        inline(model, [GlipNms, class_wise_nms])


def end_at_candidates(model: onnx_ir.Model, config: DetectionConfig) -> None:
    """The graph gives its M candidates, in place of detections: `runtime/host_nms.py` takes them on."""
    graph = model.graph
    boxes, scores, labels = _ranked_candidates(graph) if config.several_scales else _candidates_of_nms(graph)
    tape = Tape()
    results = [boxes, scores, tape.op("Cast", [labels], {"to": DataType.INT32})]
    graph.extend(tape.nodes)
    many = config.candidates
    shapes = (("B", many, 4), ("B", many), ("B", many))
    dtypes = (DataType.FLOAT, DataType.FLOAT, DataType.INT32)
    for name, result, dtype, shape in zip(CANDIDATES, results, dtypes, shapes, strict=True):
        result.name, result.dtype, result.shape = name, dtype, onnx_ir.Shape(shape)
    graph.outputs[:] = results
    common.RemoveUnusedNodesPass()(model)


def _ranked_candidates(graph: onnx_ir.Graph) -> tuple[onnx_ir.Value, onnx_ir.Value, onnx_ir.Value]:
    """The same of a head without NMS, which only ranks them (`model.selection.best`)."""
    boxes, scores, labels, _ = graph.outputs
    return (
        before("GatherElements", before("Mul", boxes)),
        before("TopK", before("Mul", scores)),
        before("GatherElements", before("Where", labels, 1)),
    )


def _candidates_of_nms(graph: onnx_ir.Graph) -> tuple[onnx_ir.Value, onnx_ir.Value, onnx_ir.Value]:
    """boxes (B, M, 4), scores (B, M), labels (B, M) as `graphs/onnx_nms.py` takes them."""
    nms = next((node for node in graph if node.op_type == "NonMaxSuppression"), None)
    if nms is None:
        raise GlipExportError("no NonMaxSuppression: this is no bundle's fusion head, or it is lowered already")
    of_class = nms.inputs[1]
    boxes = before("Add", nms.inputs[0])
    scores = before("Unsqueeze", before("Where", of_class, 1))
    labels = before("Unsqueeze", before("Equal", before("Where", of_class)))
    return boxes, scores, labels


def before(op_type: str, value: onnx_ir.Value | None, place: int = 0) -> onnx_ir.Value:
    """An input of the node that made the value. Raises GlipExportError if that is no op_type."""
    found = maker(op_type, value).inputs[place]
    if found is None:
        raise GlipExportError(f"the graph's selection is not the exporter's: {op_type} without its input {place}")
    return found


def maker(op_type: str, value: onnx_ir.Value | None) -> onnx_ir.Node:
    """The node that made the value. Raises GlipExportError if that is no op_type."""
    return _the(op_type, [value.producer()] if value is not None else [])


def _after(op_type: str, value: onnx_ir.Value) -> onnx_ir.Value:
    """The output of the one node that takes the value. Raises GlipExportError if that is no op_type."""
    return _the(op_type, value.consumers()).outputs[0]


def _the(op_type: str, nodes: Sequence[onnx_ir.Node | None]) -> onnx_ir.Node:
    if len(nodes) != 1 or nodes[0] is None or nodes[0].op_type != op_type:
        found = ", ".join(node.op_type if node else "an input" for node in nodes) or "nothing"
        raise GlipExportError(f"the graph's selection is not the exporter's: {op_type} expected, {found} found")
    return nodes[0]
