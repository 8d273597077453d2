"""The backbone and the fusion head as one graph, from pictures and text to detections."""

from __future__ import annotations

import onnx_ir

from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import FUSION_HEAD, VISION_BACKBONE

TEXT_INPUTS = ("text_features", "attention_mask", "class_map")  # what a vocabulary decides
SIZES = "image_sizes"
_PREFIX = "head."  # before a name of the head's that the backbone has too


def compose(backbone: onnx_ir.Model, head: onnx_ir.Model, graph_name: str) -> onnx_ir.Model:
    """images, text_features, attention_mask, class_map, image_sizes -> boxes, scores, labels, count.

    Both models are taken apart for it. Values keep their names, the pyramid's p3..p7 among them, but those of the
    head that the backbone has too, which begin with "head."; nodes keep the module that they came from. Where the
    backbone fuses text, the head reads what it made of it.
    """
    if backbone.functions or head.functions:
        raise GlipExportError("graphs with functions cannot be baked: export the bundle again")
    taken = {value.name for value in _values(backbone)} | {VISION_BACKBONE.name, FUSION_HEAD.name}
    for value in _values(head):
        if value.name in taken and value not in head.graph.inputs:
            value.name = f"{_PREFIX}{value.name}"
    for node in head.graph:
        node.name = f"{_PREFIX}{node.name}"
    given = {value.name: value for value in backbone.graph.inputs}
    made = {value.name: value for value in backbone.graph.outputs}
    if "fused_text_features" in made:
        made["text_features"] = made.pop("fused_text_features")
    inputs = list(backbone.graph.inputs)
    for value in list(head.graph.inputs):
        found = made.get(value.name) or given.get(value.name)
        if found is None:
            inputs.append(value)
        else:
            value.replace_all_uses_with(found)
    nodes = [*backbone.graph, *head.graph]
    outputs = list(head.graph.outputs)
    initializers = [*backbone.graph.initializers.values(), *head.graph.initializers.values()]
    for graph in (backbone.graph, head.graph):
        graph.outputs.clear()
        graph.inputs.clear()
        graph.initializers.clear()
        graph.remove(list(graph))
    opsets = dict(backbone.opset_imports)
    for domain, version in head.opset_imports.items():
        opsets[domain] = max(version, opsets.get(domain, 0))
    graph = onnx_ir.Graph(
        inputs, outputs, nodes=nodes, initializers=initializers, opset_imports=opsets, name=graph_name
    )
    model = onnx_ir.Model(graph, ir_version=max(backbone.ir_version, head.ir_version))
    model.producer_name = "glip-export"
    return model


def _values(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    graph = model.graph
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
