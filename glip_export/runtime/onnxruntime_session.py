"""The ONNX Runtime backend: CUDA where onnxruntime-gpu finds a device, else the CPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.graphs.contracts import FUSION_HEAD, GRAPHS, LEVELS, TEXT_ENCODER, VISION_BACKBONE, GraphSpec
from glip_export.runtime.session import F32, I64, Pyramid


class OnnxRuntimeSession:
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

    def text_encoder(self, input_ids: I64, attention_mask: I64) -> F32:
        """See `Session`."""
        return self._run(TEXT_ENCODER, (input_ids, attention_mask))[0]

    def vision_backbone(self, images: F32) -> Pyramid:
        """See `Session`."""
        p3, p4, p5, p6, p7 = self._run(VISION_BACKBONE, (images,))
        return p3, p4, p5, p6, p7

    def fusion_head(
        self, features: Pyramid, text_features: F32, attention_mask: I64, class_map: F32, image_sizes: I64
    ) -> tuple[F32, F32, I64, I64]:
        """See `Session`."""
        boxes, scores, labels, count = self._run(
            FUSION_HEAD, (*features, text_features, attention_mask, class_map, image_sizes)
        )
        return boxes, scores, labels, count

    def _open(self, bundle: Bundle, name: str, options: Any) -> onnxruntime.InferenceSession:
        path = bundle.graph_path(name)
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=self.providers)
        except Exception as error:  # onnxruntime's own exceptions share no base
            raise BackendError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {_reason(error)}"
            ) from error

    def _run(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> list[Any]:
        """Inputs are read and outputs given where they are: no feature map is copied on its way between graphs."""
        feed = dict(zip(spec.input_names, arrays, strict=True))
        try:
            values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in feed.items()}
            return [out.numpy() for out in self._sessions[spec.name].run_with_ort_values(spec.output_names, values)]
        except Exception as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feed.items() if name not in LEVELS)
            raise BackendError(f"ONNX Runtime failed in {spec.name} ({shapes}): {_reason(error)}") from error


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


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
