"""TensorRT and TensorRT for RTX as the runtime uses them: engines loaded, contexts made, failures told."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

from glip_export.bundle.files import atomic_write_bytes
from glip_export.errors import BackendError, GlipExportError
from glip_export.runtime.session import one_line
from glip_export.trt.engine_set import EngineSet
from glip_export.trt.gpus import engine_targets, targets_words

TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
_MISFITS = {  # names of EngineInvalidityDiagnostics
    "UNSUPPORTED_CC": "it was not built for this GPU",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU's memory is too small or full",
    "MALFORMED_ENGINE": "the file is damaged",
    "CUDA_ERROR": "the NVIDIA driver or the CUDA runtime does not work",
    "VERSION_MISMATCH": "it was built by another version",
}


class Library:
    """One of the two libraries, whose Python APIs are alike.

    RTX compiles kernels for this GPU when an engine first runs; `caches` says where each engine's are kept, by graph.
    It also makes its CUDA graphs itself, at the right moment between its generic and its specialised kernels.
    """

    def __init__(self, trt: ModuleType, flavor: str, caches: Path | None = None) -> None:
        self.trt = trt
        self.title = f"{TITLES[flavor]} {trt.__version__}"
        self.makes_graphs = hasattr(trt, "CudaGraphStrategy")
        self._logger = _make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        if self._runtime is None:
            raise self.failure(f"{self.title} does not start")
        self._caches = caches
        self._configs: dict[str, Any] = {}  # by graph
        self._runtime_caches: dict[str, Any] = {}

    def load(self, graph: str, engines: EngineSet, gpu: str, rebuild: str) -> Any:
        """The graph's engine; gpu: this one, in words. Raises BackendError with what is wrong and what builds it."""
        path = engines.engine_path(graph)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BackendError(f"cannot read {path}: {error.strerror or error}") from error
        self._logger.errors.clear()
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            reason = why_not_loaded(engines, self.trt.__version__, gpu, self._misfits(data), self.last_errors())
            raise BackendError(f"{self.title} cannot load {path}: {reason}; build it again with: {rebuild}")
        if hasattr(engine, "create_runtime_config"):
            self._configure(graph, engine)
        return engine

    def create_context(self, engine: Any, graph: str) -> Any:
        """An execution context whose scratch memory the caller gives."""
        user_managed = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(self._configs.get(graph, user_managed))
        if context is None:
            raise self.failure(f"{self.title} makes no context for {graph}")
        return context

    def failure(self, what: str) -> BackendError:
        """An error with TensorRT's own last words."""
        words = self.last_errors()
        return BackendError(f"{what}: {words}" if words else what)

    def last_errors(self) -> str:
        """What TensorRT logged last as errors, on one line."""
        return one_line(Exception("; ".join(self._logger.errors)))

    def save_caches(self) -> None:
        """Writes the kernels that RTX compiled since; where nothing can be written they are compiled again."""
        for graph, cache in self._runtime_caches.items():
            try:
                atomic_write_bytes(self._cache_file(graph), bytes(cache.serialize()))
            except (OSError, GlipExportError):
                continue

    def _configure(self, graph: str, engine: Any) -> None:
        trt = self.trt
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self.makes_graphs:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            # A shape's own kernels from its first run on: results do not change after the first seconds.
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        if self._caches is not None and hasattr(config, "create_runtime_cache"):
            cache = config.create_runtime_cache()
            if self._cache_file(graph).is_file():
                cache.deserialize(self._cache_file(graph).read_bytes())  # refused if of another GPU or version
            config.set_runtime_cache(cache)
            self._runtime_caches[graph] = cache
        self._configs[graph] = config

    def _cache_file(self, graph: str) -> Path:
        assert self._caches is not None
        return self._caches / f"{graph}.kernels"

    def _misfits(self, data: bytes) -> list[str]:
        """RTX's reasons why an engine does not fit, by name."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return []
        try:
            _, found = self._runtime.get_engine_validity(data)
            known = self.trt.EngineInvalidityDiagnostics.__members__
            return [name for name, bit in known.items() if int(found) & int(bit)]
        except Exception:  # only to say more of a failure that is told anyway
            return []


def why_not_loaded(engines: EngineSet, installed: str, gpu: str, misfits: list[str], words: str) -> str:
    """Another version, another GPU, or TensorRT's own words."""
    if engines.version != installed and (not misfits or "VERSION_MISMATCH" in misfits):
        return f"it was built with version {engines.version}"
    if misfits:
        made_for = f", but for {targets_words(engine_targets(engines.flavor, engines.recipe, engines.gpu))}"
        told = {**_MISFITS, "UNSUPPORTED_CC": _MISFITS["UNSUPPORTED_CC"] + made_for}
        return f"on {gpu} " + "; ".join(told.get(name, name) for name in misfits)
    if engines.gpu is not None and engines.gpu["name"] not in gpu:
        return f"it was built on {engines.gpu['name']}, this is {gpu}"
    return words or "no reason given"


def _make_logger(trt: ModuleType) -> Any:
    class Logger(trt.ILogger):  # type: ignore[name-defined]
        """Keeps the last errors for our own messages, and prints nothing."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=3)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()
