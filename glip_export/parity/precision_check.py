"""Whether float16 or bfloat16 graphs find the fp32 bundle's detections again, on the CPU and before any engine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.graphs.contracts import GRAPHS, GraphSpec, graphs_of
from glip_export.graphs.emulation import rounded
from glip_export.parity.cases import Case, built_in_cases
from glip_export.parity.pairing import Detections
from glip_export.parity.recall import RecallDiff, found_again, together
from glip_export.parity.run import Outputs, run
from glip_export.runtime.session import GraphSession, one_line, shapes_of
from glip_export.runtime.versions import check_version


@dataclass(frozen=True)
class PrecisionReport:
    """The outcome of all cases together."""

    recall: RecallDiff  # of the detections of all pictures; boxes in pixels of the resized pictures
    nonfinite: int  # values of any graph's outputs that are NaN or infinite

    @property
    def passed(self) -> bool:
        """Enough is found again and every value is finite; not where there was nothing to find."""
        return self.recall.counted > 0 and self.recall.within() and not self.nonfinite

    def line(self) -> str:
        """The outcome in one line, for a person."""
        broken = f"; {self.nonfinite} values are NaN or infinite" if self.nonfinite else ""
        if not self.recall.counted:
            return f"nothing to compare, fp32 itself has no clear detection{broken}"
        found = f"{self.recall.found} of {self.recall.counted} clear detections found again"
        worst = f"boxes within {self.recall.box_px:.2g} px, scores within {self.recall.score:.1e}"
        return f"{found}, {worst}{broken}"


def check_precision(
    bundle: Bundle,
    graphs: Mapping[str, onnx_ir.Model],
    cases: Sequence[Case] | None = None,
    threads: int | None = None,
) -> PrecisionReport:
    """Runs the bundle with some of its graphs replaced, beside its own fp32 graphs.

    graphs: by name, as `graphs.precision.convert` makes them, not lowered to plugin nodes; cases: one small picture
    and two names if none are given. Raises BackendError where ONNX Runtime cannot run a graph.
    """
    cases = built_in_cases(bundle.config, bundle.image_size, quick=True) if cases is None else cases
    inputs = [case.inputs(bundle.config) for case in cases]
    reference = RoundedSession(bundle, {}, threads)
    expected = [run(reference, item) for item in inputs]
    del reference  # one program at a time in memory
    candidate = RoundedSession(bundle, graphs, threads)
    outcomes = [run(candidate, item) for item in inputs]
    return PrecisionReport(
        recall=together(compare_detections(want, have) for want, have in zip(expected, outcomes, strict=True)),
        nonfinite=sum(count_nonfinite(outputs) for outputs in outcomes),
    )


class RoundedSession(GraphSession):
    """The bundle's graphs in ONNX Runtime, some replaced by converted ones, with every value rounded to its type."""

    name = "onnxruntime, rounded"

    def __init__(self, bundle: Bundle, graphs: Mapping[str, onnx_ir.Model], threads: int | None = None) -> None:
        self.specs = graphs_of(bundle.config)
        self._sessions = {
            name: _open(rounded(graphs[name]), threads) if name in graphs else _load(bundle.graph_path(name), threads)
            for name in GRAPHS
        }

    def _run(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> list[Any]:
        try:
            return self._sessions[spec.name].run(spec.output_names, dict(zip(spec.input_names, arrays, strict=True)))
        except Exception as error:  # onnxruntime's own exceptions share no base
            raise BackendError(
                f"ONNX Runtime failed in {spec.name} ({shapes_of(spec, arrays)}): {one_line(error)}"
            ) from error


def compare_detections(want: Outputs, have: Outputs) -> RecallDiff:
    """Of all pictures and chunks of one batch together."""
    diffs = []
    for one, other in zip(want.chunks, have.chunks, strict=True):
        lists = (zip(chunk.boxes, chunk.scores, chunk.labels, strict=True) for chunk in (one, other))
        diffs += [found_again(Detections(*a), Detections(*b)) for a, b in zip(*lists, strict=True)]
    return together(diffs)


def count_nonfinite(outputs: Outputs) -> int:
    """NaN and infinite values among the features, the text features and the detections."""
    arrays = [*outputs.features]
    for chunk in outputs.chunks:
        arrays += [chunk.text_features, *chunk.backbone, chunk.boxes, chunk.scores]
    return sum(int((~np.isfinite(array)).sum()) for array in arrays)


def _open(model: onnx_ir.Model, threads: int | None) -> onnxruntime.InferenceSession:
    with tempfile.TemporaryDirectory() as folder:  # in memory a model of more than 2 GB cannot be given
        path = Path(folder, "graph.onnx")
        onnx_ir.save(model, path, external_data=f"{path.name}.data")
        return _load(path, threads)


def _load(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    check_version(onnxruntime)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # as in OnnxRuntimeSession
    # Beyond this level nodes are fused across the casts that round between them.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {one_line(error)}") from error
