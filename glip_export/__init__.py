"""GLIP from an official PyTorch checkpoint to verified ONNX and TensorRT, and a runtime for them.

Names are imported when first used, so that the runtime never needs torch and `--help` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "load_model": "glip_export.model.glip",
    "export_onnx": "glip_export.graphs.export",
    "build_engines": "glip_export.trt.build",
    "Bundle": "glip_export.bundle",
    "Detector": "glip_export.runtime.detector",
    "Detections": "glip_export.results.detections",
    "Prompt": "glip_export.prompt",
    "GlipExportError": "glip_export.errors",
    "GlipExportWarning": "glip_export.errors",
}
__all__ = [
    "Bundle",
    "Detections",
    "Detector",
    "GlipExportError",
    "GlipExportWarning",
    "Prompt",
    "build_engines",
    "export_onnx",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _WHERE:
        raise AttributeError(f"module 'glip_export' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE, "__version__"])


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("glip-export")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0"
