"""Where the first difference starts: module outputs of the reference beside the same values inside the ONNX graphs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import torch
from numpy.typing import NDArray

from glip_export.bundle import Bundle
from glip_export.graphs.contracts import GraphSpec, as_arguments, graphs_of
from glip_export.graphs.modules import MODULE_KEY
from glip_export.model.glip import Glip
from glip_export.parity.metrics import Tolerance, compare
from glip_export.parity.run import Inputs
from glip_export.runtime.versions import check_version

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Step:
    """One module's output in the reference and in the graph."""

    graph: str
    module: str  # its name in the model, such as fusion_head.dyhead_tower.2.offset
    relative: float  # max|difference| / rms, of the worst of its tensors


def trace(model: Glip, bundle: Bundle, inputs: Inputs) -> list[Step]:
    """Every module output that can be found in the bundle's graphs, in the order the model computes them.

    Each graph gets the reference's own inputs, so that a difference belongs to the graph it shows in. A value inside a
    graph is known by the module that its node came from; what the exporter merged away cannot be compared and is left
    out. The graphs run in ONNX Runtime on the CPU. The first chunk of the prompt is used.
    """
    text = inputs.chunks[0]
    batch = len(inputs.images)
    values: Arrays = {
        "images": inputs.images,
        "image_sizes": inputs.sizes,
        "input_ids": np.repeat(text.input_ids[None], batch, 0),
        "attention_mask": np.repeat(text.attention_mask[None], batch, 0),
        "class_map": np.repeat(text.class_map[None], batch, 0),
    }
    steps = []
    for spec in graphs_of(model.config).values():
        recorded = _run_reference(model, spec, values)
        found = _run_graph(bundle, spec, values, set(recorded))
        steps += list(_compare(spec, recorded, found))
        if "fused_text_features" in values:  # what the head is given then
            values["text_features"] = values["fused_text_features"]
    return steps


def first_outside(steps: list[Step], tolerance: Tolerance) -> Step | None:
    """The first step that leaves tolerance."""
    return next((step for step in steps if not step.relative <= tolerance.relative), None)


def _run_reference(model: Glip, spec: GraphSpec, values: Arrays) -> dict[str, list[NDArray[Any]]]:
    """Module name -> its output tensors, in order of computation; puts the graph's outputs into `values`."""
    root = model.graph_module(spec.name)
    recorded: dict[str, list[NDArray[Any]]] = {}

    def record(name: str) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            # A module that runs once a level (DyConv's convolutions) has its outputs side by side.
            recorded.setdefault(name, []).extend(tensor.numpy() for tensor in _tensors(output))

        return hook

    hooks = [module.register_forward_hook(record(name)) for name, module in root.named_modules() if name]
    try:
        inputs = [torch.from_numpy(values[tensor.name]) for tensor in spec.inputs]
        with torch.no_grad():
            outputs = list(_tensors(root(*as_arguments(spec, inputs))))
    finally:
        for hook in hooks:
            hook.remove()
    values.update({tensor.name: output.numpy() for tensor, output in zip(spec.outputs, outputs, strict=True)})
    return recorded


def _run_graph(bundle: Bundle, spec: GraphSpec, values: Arrays, modules: set[str]) -> dict[str, list[NDArray[Any]]]:
    """Module name -> the values that leave it inside the ONNX graph."""
    model = onnx_ir.load(bundle.graph_path(spec.name))
    leaving = _leaving_values(model.graph, modules)
    known = {output.name for output in model.graph.outputs}
    extra = {value.name: value for values_ in leaving.values() for value in values_ if value.name not in known}
    model.graph.outputs.extend(extra.values())
    check_version(onnxruntime)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "graph.onnx")
        onnx_ir.save(model, path, external_data="graph.onnx.data")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = sorted({value.name for values_ in leaving.values() for value in values_ if value.name})
    results = session.run(names, {tensor.name: values[tensor.name] for tensor in spec.inputs})
    arrays = dict(zip(names, results, strict=True))
    return {name: [arrays[value.name] for value in values_ if value.name] for name, values_ in leaving.items()}


def _leaving_values(graph: onnx_ir.Graph, modules: set[str]) -> Mapping[str, list[onnx_ir.Value]]:
    """For each module, the values made inside it and read outside it (or by nobody: the graph's outputs)."""
    leaving: dict[str, list[onnx_ir.Value]] = {}
    for node in graph:
        for module in _with_parents(node.metadata_props.get(MODULE_KEY, "")):
            if module in modules:
                for value in node.outputs:
                    readers = [use.node.metadata_props.get(MODULE_KEY, "") for use in value.uses()]
                    if value.is_graph_output() or any(module not in _with_parents(reader) for reader in readers):
                        leaving.setdefault(module, []).append(value)
    return leaving


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".") if module else []
    for end in range(len(parts), 0, -1):
        yield ".".join(parts[:end])


def _compare(
    spec: GraphSpec, recorded: dict[str, list[NDArray[Any]]], found: dict[str, list[NDArray[Any]]]
) -> Iterator[Step]:
    for module, tensors in recorded.items():
        worst = -1.0
        for tensor in tensors:
            # The graph may hold the value in several forms, say before and after a reshape: the nearest is the one.
            candidates = [value for value in found.get(module, []) if value.shape == tensor.shape]
            if candidates:
                worst = max(worst, min(compare(tensor, value).relative for value in candidates))
        if worst >= 0:
            yield Step(spec.name, f"{spec.name}.{module}", worst)


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, (tuple, list)):  # not transformers' mappings: they repeat what inner modules gave
        for value in output:
            yield from _tensors(value)
