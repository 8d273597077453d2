"""The ONNX files that one of ONNX Runtime's providers is given: the bundle's own, or what is made of them once.

- fp16: the graphs converted, with the same islands of float32 as for TensorRT (`graphs/islands.py`).
- native: the fusion head in operators that TensorRT's ONNX parser has. It has no DeformConv (nor has that of TensorRT
  for RTX), so of the plain graph each one would go to CUDA, or to the CPU, and cut the graph into dozens of engines;
  and NonMaxSuppression has a shape that depends on values, which ends an engine too. With GridSample in the place of
  the one and the candidates as outputs in the place of the other (`runtime/host_nms.py` goes on) it is one engine.

The weights are in a file beside the graph, as the bundle's own are: one of protobuf ends at 2 GB.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from glip_export.bundle import Bundle
from glip_export.bundle.files import atomic_directory, sha256_file
from glip_export.errors import BackendError, BundleError
from glip_export.graphs.contracts import FUSION_HEAD, GRAPHS, GraphSpec, graphs_of
from glip_export.runtime.cache import cache_folder, graphs_key

FP32, FP16 = "fp32", "fp16"
# Sources that shape what is made.
_SOURCES = (
    "graphs/contracts.py", "graphs/islands.py", "graphs/precision.py", "trt/function_calls.py", "trt/functions.py",
    "trt/lower_deform_conv.py", "trt/lower_selection.py", "trt/lowering.py", "trt/nodes.py",
)  # fmt: skip


@contextmanager
def graph_files(bundle: Bundle, precision: str, native: bool = False) -> Iterator[dict[str, Path]]:
    """Each graph's file, by name; they need to be there only inside.

    What is not the bundle's own is made at the first call and kept in its cache folder, or where nothing can be written
    there in a temporary one. Raises BackendError if the bundle is not fp32, or what makes them is not installed.
    """
    own = {name: bundle.graph_path(name) for name in GRAPHS}
    made = [name for name in GRAPHS if precision != bundle.precision or (native and name == FUSION_HEAD.name)]
    if not made:
        yield own
        return
    if bundle.precision != FP32:
        raise BackendError(f"{bundle.path} is {bundle.precision}; {precision} graphs are made of an fp32 bundle")
    form = f"{precision}-native" if native else precision
    with tempfile.TemporaryDirectory(prefix="glip-export-") as temporary:
        folder = cache_folder(bundle, f"onnxruntime-{form}", made_key(bundle)) or Path(temporary)
        yield own | {name: _made(bundle, name, precision, native, folder, Path(temporary)) for name in made}


def made_key(bundle: Bundle) -> str:
    """A hash of all that follows from the bundle's graphs and from how others are made of them."""
    return hashlib.sha256(f"{graphs_key(bundle)} {_passes()}".encode()).hexdigest()


def _made(bundle: Bundle, name: str, precision: str, native: bool, folder: Path, temporary: Path) -> Path:
    """folder/NAME/NAME.onnx, made if it is not there; in the temporary folder if that cannot be."""
    path = folder / name / f"{name}.onnx"
    if path.is_file():
        return path
    model = _convert(bundle, graphs_of(bundle.config)[name], precision, native)
    try:
        with atomic_directory(path.parent) as unfinished:
            _save(model, unfinished / path.name)
    except BundleError as error:
        if path.is_file():  # another process made it meanwhile
            return path
        if folder == temporary:
            raise BackendError(f"{name} in {precision} cannot be written: {error}") from error
        return _made(bundle, name, precision, native, temporary, temporary)
    return path


def _convert(bundle: Bundle, spec: GraphSpec, precision: str, native: bool) -> Any:
    try:
        import onnx_ir

        from glip_export.graphs.precision import convert

        model = convert(onnx_ir.load(bundle.graph_path(spec.name)), spec, precision)
        if native:
            from glip_export.trt.lowering import lower

            model = lower(model, spec, bundle.config, deform_conv="gridsample", nms="host")
    except ImportError as error:
        missing = error.name or error
        raise BackendError(
            f"{missing} is not installed, which converting the graphs takes: pip install 'glip-export[export]'"
        ) from error
    return model


def _save(model: Any, path: Path) -> None:
    import onnx_ir

    onnx_ir.save(model, path, external_data=f"{path.name}.data")


@cache
def _passes() -> str:
    """SHA-256 of the sources that shape what is made, and of the library's version."""
    package = Path(__file__).resolve().parents[1]
    try:
        library = metadata.version("onnx-ir")
    except metadata.PackageNotFoundError:
        library = ""
    digests = [sha256_file(package / source) for source in _SOURCES]
    return hashlib.sha256(" ".join([library, *digests]).encode()).hexdigest()
