"""Each module alone in int8, the rest float: how far the outputs go."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from glip_export.bundle import Bundle
from glip_export.bundle.files import atomic_write_text
from glip_export.graphs.contracts import FUSION_HEAD, GRAPHS, graphs_of
from glip_export.graphs.quantization.calibration import Calibration, captions, feeds, work_folder
from glip_export.graphs.quantization.int8_bundle import int8_modules
from glip_export.graphs.quantization.ranges import session_of
from glip_export.graphs.quantization.rewrite import quantized

PICTURES = 2  # that each module is measured on

Sample = tuple[dict[str, NDArray], list[NDArray]]  # a graph's inputs, and what it makes of them in float


@dataclass(frozen=True)
class Sensitivity:
    """What one module in int8 does to its graph's outputs; of the fusion head to its logits, before it selects."""

    graph: str
    module: str
    largest: float  # error, over the output's rms; the worst output
    sqnr: float  # signal over error in dB, of the worst output
    ap: float | None = None  # of the bundle with this module alone in int8, where it was measured


def measure(
    bundle: Bundle, calibration: Calibration, threads: int | None = None, advance: Callable[[int], None] | None = None
) -> list[Sensitivity]:
    """A row a module, the most sensitive first; goes on where a killed call with the same calibration was."""
    kept = work_folder(bundle, calibration.sha256) / "sensitivity.json"
    rows = _read(kept)
    todo = [(graph, module) for graph, modules in int8_modules(bundle).items() for module in modules]
    models = {name: onnx_ir.load(bundle.graph_path(name)) for name in GRAPHS}
    probes = {name: _probes(model, name) for name, model in models.items()}
    samples: dict[str, list[Sample]] = {}
    for graph, module in todo:
        if (graph, module) not in rows:
            samples = samples or _samples(bundle, calibration, models, probes, threads)
            alone = quantized(models[graph], calibration.ranges[graph], lambda product: product.module != module)  # noqa: B023
            rows[graph, module] = _compare(bundle, graph, module, alone, probes[graph], samples[graph], threads)
            atomic_write_text(kept, json.dumps([vars(row) for row in rows.values()]))
        if advance is not None:
            advance(len(rows))
    return sorted(rows.values(), key=lambda row: (row.sqnr, row.module))


def _read(path: Path) -> dict[tuple[str, str], Sensitivity]:
    try:
        rows = [Sensitivity(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return {}
    return {(row.graph, row.module): row for row in rows}


def _probes(model: onnx_ir.Model, name: str) -> list[str]:
    """The graph's outputs; of the fusion head what its sigmoids on the class map and its box layers are given."""
    if name != FUSION_HEAD.name:
        return [str(output.name) for output in model.graph.outputs]
    found = []
    for node in model.graph:
        if node.op_type == "MatMul" and "class_map" in {value.name for value in node.inputs if value is not None}:
            scores = node.inputs[0].producer() if node.inputs[0] is not None else None
            if scores is not None and scores.op_type == "Sigmoid" and scores.inputs[0] is not None:
                found.append(str(scores.inputs[0].name))
        elif node.op_type == "Conv" and node.metadata_props.get("glip.module", "").endswith("bbox_pred"):
            found.append(str(node.outputs[0].name))
    return found or ["boxes", "scores"]


def _samples(
    bundle: Bundle,
    calibration: Calibration,
    models: dict[str, onnx_ir.Model],
    probes: dict[str, list[str]],
    threads: int | None,
) -> dict[str, list[Sample]]:
    specs = graphs_of(bundle.config)
    sessions = {name: _session(bundle, model, name, probes[name], threads) for name, model in models.items()}
    samples: dict[str, list[Sample]] = {name: [] for name in GRAPHS}
    chunk = captions(bundle, calibration.prompt)[0]
    for picture in calibration.pictures[:PICTURES]:
        known: dict[str, NDArray] = {}
        for name, given in feeds(bundle, picture, chunk):
            known.update(given)
            inputs = {key: known[key] for key in specs[name].input_names}
            outputs = [] if name == FUSION_HEAD.name else specs[name].output_names
            wanted = list(dict.fromkeys([*probes[name], *outputs]))
            made = dict(zip(wanted, sessions[name].run(wanted, inputs), strict=True))
            known.update({output: made[output] for output in outputs})
            known["text_features"] = known.get("fused_text_features", known["text_features"])
            samples[name].append((inputs, [made[probe] for probe in probes[name]]))
    return samples


def _compare(
    bundle: Bundle,
    graph: str,
    module: str,
    model: onnx_ir.Model,
    probes: list[str],
    samples: list[Sample],
    threads: int | None,
) -> Sensitivity:
    session = _session(bundle, model, graph, probes, threads)
    largest, worst = 0.0, math.inf
    for inputs, expected in samples:
        for value, reference in zip(session.run(probes, inputs), expected, strict=True):
            error = np.square(value - reference, dtype=np.float64)
            power = float(np.square(reference, dtype=np.float64).mean())
            largest = max(largest, math.sqrt(float(error.max()) / max(power, 1e-30)))
            worst = min(worst, -10 * math.log10(max(float(error.mean()) / max(power, 1e-30), 1e-30)))
    return Sensitivity(graph, module, round(largest, 6), round(worst, 2))


def _session(
    bundle: Bundle, model: onnx_ir.Model, name: str, probes: list[str], threads: int | None
) -> InferenceSession:
    content = onnx_ir.to_proto(model)
    known = {output.name for output in content.graph.output}
    values = {value.name: value for value in content.graph.value_info}
    content.graph.output.extend(values[probe] for probe in probes if probe not in known)
    return session_of(content.SerializeToString(), bundle.graph_path(name).parent, threads)
