"""The ONNX Runtime backend: CUDA where onnxruntime-gpu finds a device, else the CPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.graphs.contracts import GRAPHS, GraphSpec
from glip_export.runtime.session import GraphSession, one_line, shapes_of


class OnnxRuntimeSession(GraphSession):
    """The three graphs of a bundle in ONNX Runtime; see `Session` for shapes."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        available = onnxruntime.get_available_providers()
        self.providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: its warnings on CPU fallback tell a user nothing
        if threads is not None:
            options.intra_op_num_threads = threads
        # One arena for the three graphs that grows by what is asked, not by doubling, and no plan of all tensors of a
        # shape: GLIP-T at 800x1216 peaks at 2.1 GB instead of 3.6 GB, at the same speed.
        _register_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.enable_mem_pattern = False
        self._sessions = {name: self._open(bundle, name, options) for name in GRAPHS}

    def _open(self, bundle: Bundle, name: str, options: Any) -> onnxruntime.InferenceSession:
        path = bundle.graph_path(name)
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=self.providers)
        except Exception as error:  # onnxruntime's own exceptions share no base
            raise BackendError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {one_line(error)}"
            ) from error

    def _run(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> list[Any]:
        """Inputs are read and outputs given where they are: no feature map is copied on its way between graphs."""
        feed = dict(zip(spec.input_names, arrays, strict=True))
        try:
            values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in feed.items()}
            return [out.numpy() for out in self._sessions[spec.name].run_with_ort_values(spec.output_names, values)]
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime failed in {spec.name} ({shapes_of(spec, arrays)}): {one_line(error)}"
            ) from error


@lru_cache(maxsize=1)
def _register_arena() -> None:
    """Once a process: the CPU arena that sessions share."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    same_as_requested, default = 1, -1
    onnxruntime.create_and_register_allocator(
        memory,
        onnxruntime.OrtArenaCfg(
            {
                "max_mem": 0,
                "arena_extend_strategy": same_as_requested,
                "initial_chunk_size_bytes": default,
                "max_dead_bytes_per_chunk": default,
            }
        ),
    )
