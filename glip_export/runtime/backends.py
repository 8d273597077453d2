"""The backends by name; each is imported only when it is opened."""

from __future__ import annotations

from pathlib import Path

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.runtime.session import Session

BACKENDS = ("torch", "onnxruntime")


def open_session(
    bundle: Bundle, backend: str = "onnxruntime", threads: int | None = None, weights: Path | None = None
) -> Session:
    """The bundle's three graphs on a backend.

    threads: CPU threads, the backend's own default if None. weights: for torch, where the checkpoint is now, if not
    where the manifest says. Raises BackendError for an unknown backend or one that cannot run here.
    """
    if backend == "torch":
        from glip_export.runtime.torch_session import TorchSession, load_reference

        return TorchSession(load_reference(bundle, weights), threads)
    if backend == "onnxruntime":
        from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession

        return OnnxRuntimeSession(bundle, threads)
    raise BackendError(f"there is no backend {backend!r}: choose one of {', '.join(BACKENDS)}")
