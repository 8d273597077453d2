"""Writes a Triton model repository that stands alone: models, the bundle's files, and the source that runs them.

README.md, requirements.txt, Dockerfile, run_server.py
glip/            pictures and a prompt to detections, on the Detector, in Triton's python backend
glip_gpu/        the same over the models glip_gpu_<graph>, in Triton's ONNX Runtime backend (with gpu=True)
glip_trt/        the same over the models glip_trt_<graph>, in its TensorRT backend (where the bundle has engines)
"""

from __future__ import annotations

import json
import re
import shutil
from importlib import metadata, resources
from pathlib import Path
from string import Template

import glip_export
from glip_export.bundle import Bundle
from glip_export.bundle.files import MANIFEST, atomic_directory
from glip_export.errors import BackendError, GlipExportError
from glip_export.graphs.contracts import GRAPHS
from glip_export.runtime.backends import BACKENDS
from glip_export.runtime.multiscale import check_one_scale
from glip_export.runtime.tensorrt_session import built_precisions
from glip_export.serving.triton.bls_session import FILES
from glip_export.serving.triton.model_config import (
    GRAPHS_PARAMETER,
    HOST_NMS_PARAMETER,
    detector_config,
    engine_graph_config,
    onnx_graph_config,
)
from glip_export.serving.triton.python_model import BUNDLE
from glip_export.serving.triton.settings import TritonSettings
from glip_export.trt.engine_set import EngineSet, read_engine_set

DETECTOR, ONNX_GRAPHS, ENGINE_GRAPHS = "glip", "glip_gpu", "glip_trt"  # models
CONFIG, VERSION = "config.pbtxt", "1"
MODEL_PY = '''"""Triton's python backend starts here; the source that answers is beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from glip_export.serving.triton.python_model import GlipModel as TritonPythonModel  # noqa: E402, F401
'''
_EXTRAS = {"openvino": "openvino", "tensorrt": "cuda", "tensorrt_rtx": "cuda"}  # that a backend needs
_NOT_FOR_SERVING = ("rich", "typer")


def write_repository(
    bundle: str | Path, output: str | Path, settings: TritonSettings | None = None, gpu: bool = False
) -> list[str]:
    """Writes the repository into the new or empty folder `output`, whole or not at all; gives the models' names.

    gpu: also the three graphs as models of Triton's ONNX Runtime backend, and of its TensorRT backend where the bundle
    has `tensorrt` engines. Raises BundleError if the bundle is damaged, BackendError for a backend that cannot serve,
    GlipExportError where the folder cannot be written or holds something, and for a bundle of several scales.
    """
    settings = settings or TritonSettings()
    output = Path(output)
    _check_backend(settings.backend)
    if output.is_dir() and any(output.iterdir()):
        raise GlipExportError(f"{output} is not empty: name another folder, or remove it")
    opened = Bundle.open(bundle, anew=True)
    check_one_scale(opened.config, "a Triton server")
    with atomic_directory(output) as folder:
        _write_detector(folder, opened, settings)
        if gpu:
            _write_onnx_graphs(folder, opened, settings)
            if built_precisions(opened, "tensorrt"):
                _write_engine_graphs(folder, opened, settings)
        models = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        _write_root(folder, opened, settings, models)
    return models


def _check_backend(backend: str) -> None:
    name = backend.partition(":")[0]
    if name == "torch":
        raise BackendError("torch needs the checkpoint, which a repository does not hold: take another --backend")
    if name != "auto" and name not in BACKENDS:
        raise BackendError(f"there is no backend {name!r}: choose one of {', '.join(BACKENDS)}, without torch")


def _write_detector(folder: Path, bundle: Bundle, settings: TritonSettings) -> None:
    version = _write_python_model(folder, DETECTOR, detector_config(DETECTOR, settings))
    for name in (MANIFEST, *bundle.files):
        _copy(bundle.path / name, version / BUNDLE / name)
    Bundle.open(version / BUNDLE)  # the copy too is what the manifest says


def _write_onnx_graphs(folder: Path, bundle: Bundle, settings: TritonSettings) -> None:
    hashes = {}
    for graph, entry in bundle.graphs.items():
        name = f"{ONNX_GRAPHS}_{graph}"
        _write(folder / name / CONFIG, onnx_graph_config(name, graph, bundle))
        parent = Path(entry.file).parent
        for source in (entry.file, *entry.data):
            target = Path(name, VERSION, "model.onnx" if source == entry.file else Path(source).relative_to(parent))
            _copy(bundle.path / source, folder / target)
            hashes[target.as_posix()] = bundle.files[source].sha256
    _write_bls_model(folder, ONNX_GRAPHS, bundle, settings, hashes, {})


def _write_engine_graphs(folder: Path, bundle: Bundle, settings: TritonSettings) -> None:
    engines: EngineSet = read_engine_set(bundle, "tensorrt", built_precisions(bundle, "tensorrt")[0])
    hashes = {}
    for graph in GRAPHS:
        name = f"{ENGINE_GRAPHS}_{graph}"
        _write(folder / name / CONFIG, engine_graph_config(name, graph, bundle, engines))
        target = Path(name, VERSION, "model.plan")
        _copy(engines.engine_path(graph), folder / target)
        hashes[target.as_posix()] = engines.graphs[graph].sha256
    host_nms = {HOST_NMS_PARAMETER: "1"} if engines.nms == "host" else {}
    _write_bls_model(folder, ENGINE_GRAPHS, bundle, settings, hashes, host_nms)


def _write_bls_model(
    folder: Path, name: str, bundle: Bundle, settings: TritonSettings, hashes: dict[str, str], more: dict[str, str]
) -> None:
    version = _write_python_model(folder, name, detector_config(name, settings, {GRAPHS_PARAMETER: name, **more}))
    _copy(bundle.path / MANIFEST, version / BUNDLE / MANIFEST)
    _write(version / BUNDLE / FILES, json.dumps(hashes, indent=1) + "\n")


def _write_python_model(folder: Path, name: str, config: str) -> Path:
    """The model's configuration and source; gives the folder of its version."""
    _write(folder / name / CONFIG, config)
    version = folder / name / VERSION
    _write(version / "model.py", MODEL_PY)
    source = Path(glip_export.__file__).parent
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.relative_to(source).parts:
            _copy(path, version / source.name / path.relative_to(source))
    return version


def _write_root(folder: Path, bundle: Bundle, settings: TritonSettings, models: list[str]) -> None:
    here = resources.files("glip_export.serving.triton")
    readme = Template((here / "repository_readme.md").read_text(encoding="utf-8"))
    words = {
        "bundle": bundle.name,
        "backend": settings.backend,
        "version": glip_export.__version__,
        "models": "\n".join(f"| `{name}` | {_purpose(name)} |" for name in models),
        "max_batch": settings.max_batch,
        "max_wait_us": settings.max_wait_us,
        "max_queue": settings.max_queue,
    }
    _write(folder / "README.md", readme.substitute(words))
    _write(folder / "run_server.py", (here / "run_server.py").read_text(encoding="utf-8"))
    _write(folder / "Dockerfile", (here / "Dockerfile").read_text(encoding="utf-8"))
    _write(folder / "requirements.txt", "".join(f"{line}\n" for line in requirements(settings.backend)))


def requirements(backend: str) -> list[str]:
    """What the server's Python needs for this backend, as pip's requirements."""
    name, _, kind = backend.partition(":")
    extra = "gpu" if kind in ("cuda", "tensorrt") else _EXTRAS.get(name, "")
    try:
        required = metadata.requires("glip-export") or []
    except metadata.PackageNotFoundError:
        raise GlipExportError("glip-export is not installed, so what it needs is not known: pip install it") from None
    lines = []
    for line in required:
        requirement, _, marker = line.partition(";")
        condition, of_extra, which = marker.partition("extra == ")
        package = re.split(r"[<>=!~ ;\[]", requirement)[0]
        if of_extra and which.strip() != f'"{extra}"':
            continue
        if package in _NOT_FOR_SERVING or (package == "onnxruntime" and extra == "gpu"):
            continue
        condition = condition.strip().removesuffix(" and")
        lines.append(f"{requirement}; {condition}" if condition else requirement)
    if name in ("tensorrt", "tensorrt_rtx"):
        lines.append(name.replace("_", "-"))
    return lines


def _purpose(model: str) -> str:
    if model == DETECTOR:
        return "pictures and a prompt to detections: everything in one process"
    if model in (ONNX_GRAPHS, ENGINE_GRAPHS):
        return f"the same over the models `{model}_<graph>`"
    graph = next(graph for graph in GRAPHS if model.endswith(graph))
    return f"the graph {graph} in Triton's {'ONNX Runtime' if model.startswith(ONNX_GRAPHS) else 'TensorRT'} backend"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
