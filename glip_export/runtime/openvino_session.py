"""The OpenVINO backend for CPUs: in fp32, or with less where the average precision does not tell.

In bf16 our kernels multiply whole numbers of 16 bits, nearer to fp32 than bf16's, and of 8 bits where the bi-attentions
read; and OpenVINO's own operators bf16 where this CPU does so faster than fp32.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import openvino
from openvino import opset8
from openvino.frontend.onnx import ConversionExtension

from glip_export.bundle import BakedFile, Bundle
from glip_export.errors import BackendError
from glip_export.graphs.contracts import GraphSpec, specs_of
from glip_export.processes import usable_cores
from glip_export.runtime.native import Kernels, load_kernels
from glip_export.runtime.native.instruction_sets import VARIABLE, chosen_flags, what_hides_bf16
from glip_export.runtime.openvino_cache import CompiledCache
from glip_export.runtime.openvino_kernels import OPERATORS, KernelPrecisions, use_kernels
from glip_export.runtime.resident_memory import forget_mapped_files
from glip_export.runtime.session import GraphSession, one_line, shapes_of
from glip_export.runtime.versions import check_version

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16")
HINTS = {"latency": "LATENCY", "throughput": "THROUGHPUT"}


class OpenVinoSession(GraphSession):
    """The three graphs of a bundle in OpenVINO, on the CPU; see `Session` for shapes.

    Calls from several threads at once run side by side, each on an infer request of its own.
    """

    one_by_one = True

    def __init__(
        self,
        bundle: Bundle | BakedFile,
        threads: int | None = None,
        precision: str = "fp32",
        hint: str = "latency",
        cache: bool = True,
    ) -> None:
        """Compiles the graphs, or reads them from the user's cache.

        precision: fp32 or bf16, see above; fp32 does without our kernels, at OpenVINO's own speed, where there is no
        C++ compiler, and logs a line that says so. hint: latency, one call takes all threads; throughput, several
        concurrent calls share them. cache: keep the compiled graphs, as large as its weights, if that can be written.
        Raises BackendError.
        """
        if precision not in PRECISIONS:
            raise BackendError(f"OpenVINO has no precision {precision!r} here: choose one of {', '.join(PRECISIONS)}")
        if hint not in HINTS:
            raise BackendError(f"OpenVINO has no hint {hint!r}: choose one of {', '.join(HINTS)}")
        check_version(openvino)
        self.name = "openvino" if precision == "fp32" else f"openvino:{precision}"
        self.specs = specs_of(bundle)
        kernels = _kernels(precision)
        self._core = openvino.Core()
        self._core.add_extension(ConversionExtension("DeformConv", _deform_conv))
        for operator in OPERATORS:
            self._core.add_extension(operator)
        # Left to itself, OpenVINO takes bf16 for everything where the CPU has it, and pins a thread to a core, on which
        # the kernels' own threads would then crowd.
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": HINTS[hint],
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        precisions = None if kernels is None else KernelPrecisions.of(kernels, precision)
        if precision == "bf16" and kernels is not None and kernels.bf16_pays and not what_hides_bf16():
            options["INFERENCE_PRECISION_HINT"] = "bf16"
        kernel_threads = 1 if hint == "throughput" else threads or usable_cores()
        compiled_with = f"{kernels and kernels.fingerprint} {precisions} {kernel_threads} {options}"
        self._cache = CompiledCache.of(bundle, compiled_with) if cache else None
        self._models = {
            name: self._compile(bundle, name, kernels, precisions, kernel_threads, options) for name in self.specs
        }
        self._idle: dict[str, list[Any]] = {name: [] for name in self.specs}  # infer requests
        # Most weights were copied, in the order that OpenVINO's kernels read.
        forget_mapped_files(bundle.path.resolve())
        if self._cache is not None:
            self._cache.used()
            self._mapped = self._cache.mapped  # the last attribute, which is let go of after the compiled graphs

    def _compile(
        self,
        bundle: Bundle | BakedFile,
        name: str,
        kernels: Kernels | None,
        precisions: KernelPrecisions | None,
        threads: int,
        options: dict[str, Any],
    ) -> openvino.CompiledModel:
        path = bundle.graph_path(name)
        if self._cache is not None and (kept := self._cache.read(self._core, name, options)) is not None:
            return kept
        try:
            model = self._core.read_model(str(path))
            if kernels is not None and precisions is not None:
                use_kernels(model, path, kernels, precisions, threads)
            compiled = self._core.compile_model(model, "CPU", options)
        except Exception as error:  # OpenVINO raises RuntimeError and others, by release
            raise BackendError(f"OpenVINO {openvino.__version__} cannot load {path}: {one_line(error)}") from error
        if self._cache is not None:
            self._cache.write(name, compiled)
        return compiled

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


def supports_bf16() -> bool:
    """Whether openvino:bf16 works here: our kernels are there, with whole numbers of 16 bits."""
    try:
        return load_kernels().has_int16
    except BackendError:
        return False


def _kernels(precision: str) -> Kernels | None:
    """Our kernels; None in fp32 where they cannot be compiled. Raises BackendError for a word that chooses none."""
    chosen_flags()
    try:
        kernels = load_kernels()
    except BackendError as error:
        if precision == "fp32":
            log.warning("OpenVINO runs without our kernels, at its own speed: %s", error)
            return None
        raise BackendError(f"OpenVINO in {precision} takes our own kernels, and {error}") from error
    if precision == "bf16" and not kernels.has_int16:
        left = f"{VARIABLE}={word} leaves" if (word := os.environ.get(VARIABLE)) else "this CPU has"
        raise BackendError(
            f"OpenVINO in bf16 takes products of 16-bit whole numbers, and {left} none that our kernels know (AVX2, "
            "AVX-512): use the backend openvino, in fp32"
        )
    return kernels


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
