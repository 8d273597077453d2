"""The OpenVINO backend for CPUs: in fp32, or partly in bf16 where the CPU has it (AVX512-BF16, AMX)."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset8
from openvino.frontend.onnx import ConversionExtension

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.graphs.contracts import GRAPHS, GraphSpec
from glip_export.runtime.openvino_bf16 import lower_to_bf16
from glip_export.runtime.session import GraphSession, one_line, shapes_of

PRECISIONS = ("fp32", "bf16")
HINTS = {"latency": "LATENCY", "throughput": "THROUGHPUT"}
CACHE = Path("cache", "openvino")  # inside the bundle; the manifest does not list it


class OpenVinoSession(GraphSession):
    """The three graphs of a bundle in OpenVINO, on the CPU; see `Session` for shapes.

    Calls from several threads at once run side by side, each on an infer request of its own.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None = None,
        precision: str = "fp32",
        hint: str = "latency",
        cache: bool = True,
    ) -> None:
        """Compiles the graphs, or reads them from the bundle's cache.

        precision: fp32, or bf16 for the matrix products that `openvino_bf16` names. hint: latency, one call takes all
        threads; throughput, several concurrent calls share them. cache: keep the compiled graphs, as large as its
        weights, in the bundle's folder, if that can be written. Raises BackendError.
        """
        if precision not in PRECISIONS:
            raise BackendError(f"OpenVINO has no precision {precision!r} here: choose one of {', '.join(PRECISIONS)}")
        if hint not in HINTS:
            raise BackendError(f"OpenVINO has no hint {hint!r}: choose one of {', '.join(HINTS)}")
        self.name = "openvino" if precision == "fp32" else f"openvino:{precision}"
        self._core = openvino.Core()
        if precision == "bf16" and not supports_bf16(self._core):
            raise BackendError("this CPU has no bf16 (it takes AVX512-BF16 or AMX): use the backend openvino, in fp32")
        self._core.add_extension(ConversionExtension("DeformConv", _deform_conv))
        # Left to itself, OpenVINO takes bf16 for everything where the CPU has it.
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": HINTS[hint]}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        if cache and (folder := _cache_folder(bundle)):
            options["CACHE_DIR"] = str(folder)
        self._models = {name: self._compile(bundle, name, precision, options) for name in GRAPHS}
        self._idle: dict[str, list[Any]] = {name: [] for name in GRAPHS}  # infer requests

    def _compile(self, bundle: Bundle, name: str, precision: str, options: dict[str, str]) -> openvino.CompiledModel:
        path = bundle.graph_path(name).resolve()  # the path as given is part of the cache's key
        try:
            if precision == "fp32":
                return self._core.compile_model(str(path), "CPU", options)
            model = self._core.read_model(str(path))
            lower_to_bf16(model, name)
            return self._core.compile_model(model, "CPU", options)
        except Exception as error:  # OpenVINO raises RuntimeError and others, by release
            raise BackendError(f"OpenVINO {openvino.__version__} cannot load {path}: {one_line(error)}") from error

    def _run(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> list[Any]:
        feed = {tensor.name: np.ascontiguousarray(array) for tensor, array in zip(spec.inputs, arrays, strict=True)}
        idle = self._idle[spec.name]
        try:
            request = idle.pop()
        except IndexError:
            request = self._models[spec.name].create_infer_request()
        try:
            # Inputs are read in place. Outputs are copied, for the request writes the next call's to the same memory.
            results = request.infer(feed, share_inputs=True, share_outputs=False)
        except Exception as error:  # as above
            raise BackendError(
                f"OpenVINO failed in {spec.name} ({shapes_of(spec, arrays)}): {one_line(error)}"
            ) from error
        idle.append(request)
        return [results[name] for name in spec.output_names]


def supports_bf16(core: openvino.Core | None = None) -> bool:
    """Whether this CPU has matrix instructions for bf16."""
    return "BF16" in (core or openvino.Core()).get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _deform_conv(node: Any) -> list[Any]:
    """ONNX DeformConv, for which OpenVINO has an operator but no rule; its ONNX frontend would take it for unknown.

    Bilinear padding is on, as in GLIP's kernel: a corner outside the map counts as 0, a sample partly outside remains.
    """
    x, weight, offset, bias, mask = (node.get_input(index) for index in range(5))
    pads = [int(pad) for pad in node.get_attribute("pads")]
    convolved = opset8.deformable_convolution(
        x,
        offset,
        weight,
        [int(stride) for stride in node.get_attribute("strides")],
        pads[:2],
        pads[2:],
        [1, 1],
        mask=mask,
        bilinear_interpolation_pad=True,
    )
    shape = opset8.constant(np.array([1, -1, 1, 1], np.int64))
    return [opset8.add(convolved, opset8.reshape(bias, shape, False)).output(0)]


def _cache_folder(bundle: Bundle) -> Path | None:
    """The cache of these very graphs, made where it is not, or None if nothing can be written to it.

    OpenVINO's own key holds the ONNX file's path but not the weights beside it: with other weights in the same place it
    would give the old ones' results. So the folder's name holds the hashes that the manifest gives.
    """
    key = hashlib.sha256()
    for graph in sorted(bundle.graphs.values(), key=lambda graph: graph.name):
        for file in (graph.file, *graph.data):
            key.update(bundle.files[file].sha256.encode())
    folder = bundle.path / CACHE / key.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder.resolve()
    except OSError:
        return None
