"""The ONNX Runtime backend: on the CPU, or on a GPU with one of its execution providers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from glip_export.bundle import BakedFile, Bundle
from glip_export.errors import BackendError
from glip_export.graphs.contracts import FUSION_HEAD, TEXT_ENCODER, GraphSpec, specs_of
from glip_export.processes import shares_cores
from glip_export.runtime.host_nms import CANDIDATES, finished
from glip_export.runtime.onnxruntime_graphs import FP32, graph_files
from glip_export.runtime.onnxruntime_providers import (
    CPU,
    CUDA,
    NATIVE,
    check_active,
    configure,
    has_cuda,
    session_name,
    split_word,
)
from glip_export.runtime.session import GraphSession, one_line, shapes_of
from glip_export.runtime.versions import check_version

LONG_PROMPT = 64  # tokens
REGION_BYTES = 2**28  # the arena's first


class OnnxRuntimeSession(GraphSession):
    """The three graphs of a bundle in ONNX Runtime; see `Session` for shapes.

    Arrays are the host's, whatever provider computes; `onnxruntime_cuda_session` has that whose features stay on the
    GPU.
    """

    def __init__(self, bundle: Bundle | BakedFile, threads: int | None = None, provider: str = "") -> None:
        """Loads the graphs. provider: cpu, cuda, cuda:fp16, tensorrt or rtx; "" takes cuda where it works, else cpu.

        `name`, `provider` and `precision` say what really runs. tensorrt and rtx are given the fusion head in the
        operators that they have (`onnxruntime_graphs`), and its NMS is NumPy's. Raises BackendError where the provider
        asked for does not load, or where ONNX Runtime is too old.
        """
        check_version(onnxruntime)
        self.provider, asked = split_word(provider or (CUDA if has_cuda() else CPU))
        self.precision = bundle.precision if asked == FP32 else asked
        self._detection = bundle.config.detection
        self.specs = specs_of(bundle)
        self._native = False  # whether the fusion head ends at the candidates
        try:
            self._sessions = self._open_all(bundle, threads)
        except BackendError:
            if provider or self.provider == CPU:
                raise
            self.provider = CPU
            self._sessions = self._open_all(bundle, threads)
        self.one_by_one = self.provider == CPU
        self._returning = onnxruntime.RunOptions()
        self._returning.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.name = session_name(self.provider, asked)

    def _open_all(self, bundle: Bundle | BakedFile, threads: int | None) -> dict[str, onnxruntime.InferenceSession]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: its warnings on CPU fallback tell a user nothing
        if threads is not None:
            options.intra_op_num_threads = threads
        if shares_cores():
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # One arena for the three graphs, and no plan of all tensors of a shape: GLIP-T at 800x1216 peaked at 2.1 GB
        # instead of 3.6 GB, at the same speed.
        _register_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.enable_mem_pattern = False
        providers = configure(self.provider, options, bundle, self._device_options())
        self._native = self.provider in NATIVE and bundle.precision == FP32
        with graph_files(bundle, self.precision, self._native, self.provider == CPU) as paths:
            return {name: self._open(name, paths[name], options, providers) for name in self.specs}

    def _device_options(self) -> dict[str, str]:
        """Options of every provider of the GPU."""
        return {}

    def _open(self, name: str, path: Path, options: Any, providers: list[Any]) -> onnxruntime.InferenceSession:
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=False)
        except Exception as error:  # onnxruntime's own exceptions share no base
            raise BackendError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {one_line(error)}"
            ) from error
        check_active(self.provider, session.get_providers())
        return session

    def _run(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> list[Any]:
        """Inputs are read and outputs given where they are: no feature map is copied on its way between graphs."""
        feed = dict(zip(spec.input_names, arrays, strict=True))
        try:
            values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in feed.items()}
            options = self._memory_for(spec, arrays)
            outputs = self._sessions[spec.name].run_with_ort_values(self._output_names(spec), values, options)
            return self._finished(spec, [output.numpy() for output in outputs])
        except Exception as error:
            raise self._failure(spec, arrays, error) from error

    def _output_names(self, spec: GraphSpec) -> Sequence[str]:
        return CANDIDATES if self._native and spec is FUSION_HEAD else spec.output_names

    def _finished(self, spec: GraphSpec, outputs: list[np.ndarray]) -> list[np.ndarray]:
        """The contract's outputs: of candidates, what NMS leaves of them."""
        if not (self._native and spec is FUSION_HEAD):
            return outputs
        return finished(outputs, self._detection)

    def _failure(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...], error: Exception) -> BackendError:
        return BackendError(f"ONNX Runtime failed in {spec.name} ({shapes_of(spec, arrays)}): {one_line(error)}")

    def _memory_for(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> onnxruntime.RunOptions | None:
        """Options of a run that gives its memory back afterwards, for a fusion head with a long prompt on the CPU.

        What the backbone leaves in the arena fits its large arrays badly, so that goes first: GLIP-T peaks at 2.0 GB
        with COCO's names instead of 2.6. Always done, it would cost a tenth of the time.
        """
        if spec is not FUSION_HEAD or self.provider != CPU or arrays[-2].shape[1] <= LONG_PROMPT:
            return None
        token = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones((1, 1), np.int64))
        inputs = dict.fromkeys(TEXT_ENCODER.input_names, token)
        self._sessions[TEXT_ENCODER.name].run_with_ort_values(TEXT_ENCODER.output_names, inputs, self._returning)
        return self._returning


@lru_cache(maxsize=1)
def _register_arena() -> None:
    """Once a process: the CPU arena that sessions share.

    It grows by doubling from a large first region, whose free parts join whatever their sizes were: the peak of int8
    GLIP-T is 1.15 GB instead of 1.39 GB with a region for every size that fits nowhere. Only what is used of a region
    is memory. A first one of 1 GB saved 20 MB more, but takes the address space where a limit is set on it.
    """
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    doubling, default = 0, -1
    onnxruntime.create_and_register_allocator(
        memory,
        onnxruntime.OrtArenaCfg(
            {
                "max_mem": 0,
                "arena_extend_strategy": doubling,
                "initial_chunk_size_bytes": REGION_BYTES,
                "max_dead_bytes_per_chunk": default,
            }
        ),
    )
