"""The ONNX files that one of ONNX Runtime's providers is given: the bundle's own, or what is made of them once.

- fp16: the graphs converted, with the same islands of float32 as for TensorRT (`graphs/islands.py`).
- native: the fusion head in operators that TensorRT's ONNX parser has. It has no DeformConv (nor has that of TensorRT
  for RTX), so of the plain graph each one would go to CUDA, or to the CPU, and cut the graph into dozens of engines;
  and NonMaxSuppression has a shape that depends on values, which ends an engine too. With GridSample in the place of
  the one and the candidates as outputs in the place of the other (`runtime/host_nms.py` goes on) it is one engine.
- int8 on a CPU: the graphs of an int8 bundle in what the CPU provider is fast at (`runtime/onnxruntime_int8.py`).

The weights are in a file beside the graph, as the bundle's own are: one of protobuf ends at 2 GB.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from glip_export.bundle import BakedFile, Bundle
from glip_export.bundle.files import atomic_directory, sha256_file, user_cache
from glip_export.bundle.hashes import hash_files, remembered_hashes
from glip_export.errors import BackendError, BundleError
from glip_export.graphs.contracts import BAKED, FUSION_HEAD, GRAPHS, VISION_BACKBONE, GraphSpec, graphs_of
from glip_export.runtime.cache import cache_folder, graphs_key, make_room
from glip_export.runtime.cpu import cpu_features
from glip_export.runtime.session import one_line
from glip_export.trt.flavor import is_installed

log = logging.getLogger(__name__)
FP32, FP16, INT8 = "fp32", "fp16", "int8"
HASHES = "sha256.json"  # of a graph's files, beside them
FASTER = (VISION_BACKBONE.name, FUSION_HEAD.name)  # graphs of an int8 bundle that are made anew for the CPU
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
# Sources that shape what is made.
_SOURCES = (
    "graphs/contracts.py", "graphs/islands.py", "graphs/precision.py", "graphs/quantized.py",
    "runtime/onnxruntime_deform_conv.py", "runtime/onnxruntime_int8.py", "runtime/onnxruntime_terms.py",
    "trt/function_calls.py", "trt/functions.py", "trt/lower_deform_conv.py", "trt/lower_selection.py",
    "trt/lowering.py", "trt/nodes.py",
)  # fmt: skip


@contextmanager
def graph_files(
    bundle: Bundle | BakedFile, precision: str, native: bool = False, cpu: bool = False
) -> Iterator[dict[str, Path]]:
    """Each graph's file, by name; they need to be there only inside. cpu: for the CPU provider.

    What is not the bundle's own is made at the first call and kept in its cache folder, or where nothing can be written
    there in a temporary one; of an int8 bundle in the user's. Raises BackendError if the bundle is not fp32, or what
    makes them is not installed.
    """
    if isinstance(bundle, BakedFile):
        if precision != bundle.precision:
            raise BackendError(f"{bundle.path} was baked in {bundle.precision}: for {precision} bake it again")
        yield {BAKED.name: bundle.path}
        return
    own = {name: bundle.graph_path(name) for name in GRAPHS}
    made = [name for name in GRAPHS if precision != bundle.precision or (native and name == FUSION_HEAD.name)]
    if made and bundle.precision != FP32:
        raise BackendError(f"{bundle.path} is {bundle.precision}; {precision} graphs are made of an fp32 bundle")
    if cpu and bundle.precision == INT8 and can_be_faster():
        made = list(FASTER)
    if not made:
        yield own
        return
    form = f"{precision}-native" if native else precision
    with ExitStack() as stack:
        try:
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="glip-export-")))
            folder = _folder(bundle, form) or temporary
            files = {name: _made(bundle, name, precision, native, folder, temporary) for name in made}
        except Exception as error:  # of a library that is broken, too
            if precision != INT8:
                raise
            log.warning(f"{bundle.path}'s own graphs are taken, which are slower: {one_line(error)}")
            files = {}
        yield own | files


def _folder(bundle: Bundle, form: str) -> Path | None:
    """Where graphs are kept; None if nothing can be written.

    What runs without a GPU is kept in the user's cache, for a bundle may come from someone else. What is made for a GPU
    goes with the bundle to the machine that has one.
    """
    key = made_key(bundle)
    if form != INT8:
        return cache_folder(bundle, f"onnxruntime-{form}", key)
    folder = user_cache(f"onnxruntime/{form}-{key[:16]}")
    if folder is not None:
        with suppress(OSError):
            os.utime(folder)
        make_room(folder.parent)
    return folder


def made_key(bundle: Bundle) -> str:
    """A hash of all that follows from the bundle's graphs and from how others are made of them."""
    return hashlib.sha256(f"{graphs_key(bundle)} {_passes()}".encode()).hexdigest()


def can_be_faster() -> bool:
    """Whether this CPU multiplies int8 faster than float, and exactly, and what rewrites the graphs is installed.

    Without VNNI, ONNX Runtime adds two products of uint8 and int8 in 16 bits, which overflow.
    """
    return bool(_VNNI & (cpu_features() or frozenset())) and is_installed("onnx_ir")


def _made(bundle: Bundle, name: str, precision: str, native: bool, folder: Path, temporary: Path) -> Path:
    """folder/NAME/NAME.onnx, made if it is not there, or not whole; in the temporary folder if that cannot be."""
    path = folder / name / f"{name}.onnx"
    if _is_whole(path.parent):
        return path
    model = _convert(bundle, graphs_of(bundle.config)[name], precision, native)
    try:
        with atomic_directory(path.parent, replaceable=_check_replaceable) as unfinished:
            _save(model, unfinished / path.name)
            hashes = hash_files(unfinished, sorted(file.name for file in unfinished.iterdir()))
            (unfinished / HASHES).write_text(json.dumps(hashes), encoding="utf-8")
    except BundleError as error:
        if _is_whole(path.parent):  # another process made it meanwhile
            return path
        if folder == temporary:
            raise BackendError(f"{name} in {precision} cannot be written: {error}") from error
        return _made(bundle, name, precision, native, temporary, temporary)
    return path


def _is_whole(folder: Path) -> bool:
    """Whether a graph's files are there as they were written."""
    try:
        hashes = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        return bool(remembered_hashes(folder, hashes) == hashes)
    except (OSError, ValueError, TypeError):
        return False


def _check_replaceable(folder: Path) -> None:
    if _is_whole(folder):
        raise BundleError(f"{folder} was made meanwhile")


def _convert(bundle: Bundle, spec: GraphSpec, precision: str, native: bool) -> Any:
    try:
        import onnx_ir

        if precision == INT8:
            from glip_export.runtime.onnxruntime_int8 import faster

            return faster(onnx_ir.load(bundle.graph_path(spec.name)))
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
