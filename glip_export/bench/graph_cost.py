"""Multiply-adds of an ONNX graph, counted from the sizes that really flow through it.

ONNX Runtime runs the graph once as written (no optimisation, no repacked weights) with its profiler on; the profile
tells every node's input and output shapes, those inside functions and branches too. Counted are the matrix products
and convolutions; elementwise work, softmax and the sampling of deformable convolutions are not.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from glip_export.bundle import Bundle
from glip_export.errors import BackendError, GlipExportError
from glip_export.graphs.contracts import fixed_axes, graphs_of, pyramid_axes
from glip_export.graphs.multiply_adds import Shapes, node_macs
from glip_export.runtime.versions import check_version


def bundle_gmac(bundle: Bundle, graph: str, size: tuple[int, int], tokens: int = 1, classes: int = 1) -> float:
    """10^9 multiply-adds of one picture (or one caption) through one of the bundle's graphs.

    size: H, W of the padded picture; the count of a batch of B is B times this. Raises BackendError where the graph
    cannot be run, GlipExportError where it holds an operator that is not counted.
    """
    height, width = size
    maps = pyramid_axes(height, width, bundle.config.swin.is_v2)
    axes = {**fixed_axes(bundle.config), **maps, "B": 1, "T": tokens, "K": classes}
    feed = {}
    for tensor in graphs_of(bundle.config)[graph].inputs:
        shape = tuple(axes[axis] if isinstance(axis, str) else axis for axis in tensor.axes)
        # Ones everywhere: every token is real. Of the sizes below only the detections' number depends on values.
        feed[tensor.name] = np.ones(shape, tensor.dtype)
    if "image_sizes" in feed:
        feed["image_sizes"][:] = size
    return count_macs(bundle.graph_path(graph), feed) / 1e9


def count_macs(path: Path, feed: Mapping[str, np.ndarray]) -> int:
    """Multiply-adds of one run of the ONNX file with these inputs, on the CPU."""
    try:
        return sum(node_macs(*node) for node in _profiled_nodes(path, feed))
    except GlipExportError:
        raise
    except Exception as error:  # onnxruntime's own exceptions share no base
        raise BackendError(f"cannot count the multiply-adds of {path}: {' '.join(str(error).split())[:300]}") from error


def _profiled_nodes(path: Path, feed: Mapping[str, np.ndarray]) -> Iterable[tuple[str, Shapes, Shapes]]:
    """(operator, input shapes, output shapes) of every node that ran."""
    check_version(onnxruntime)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # A repacked weight is missing from the profile.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    for event in events:
        facts = event.get("args", {})
        if event.get("cat") == "Node" and "output_type_shape" in facts:
            yield facts["op_name"], _shapes(facts["input_type_shape"]), _shapes(facts["output_type_shape"])


def _shapes(entries: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    """[{"float": [1, 3]}, ...] -> [[1, 3], ...]."""
    return [list(shape) for entry in entries for shape in entry.values()]
