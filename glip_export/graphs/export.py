"""The three modules of a GLIP to the three ONNX graphs of a bundle."""

from __future__ import annotations

import ast
import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch.export import Dim

from glip_export.bundle import Bundle, Graph, Weights, installed_versions, write_manifest
from glip_export.bundle.files import atomic_directory
from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import (
    MAX_CELLS,
    STRIDE,
    GraphSpec,
    TensorSpec,
    as_arguments,
    check_image_size,
    fixed_axes,
    graphs_of,
    pyramid_axes,
)
from glip_export.graphs.modules import MODULE_KEY
from glip_export.graphs.translations import translation_table
from glip_export.model.glip import Glip

OPSET = 20  # DeformConv needs 19; TensorRT 10.8's parser reads no more than 22
IR_VERSION = 10  # what TensorRT 10.8's parser was built with
MAX_CLASSES = 16384
MAX_TOKENS = 4096

Progress = Callable[[str], None]


def export_onnx(
    model: Glip, output: str | Path, image_size: tuple[int, int] | None = None, progress: Progress | None = None
) -> Bundle:
    """Writes a bundle of three ONNX graphs and opens it.

    The batch, tokens and classes vary; so do the picture's sides, unless image_size (height, width, multiples of 32)
    makes a static, smaller and faster vision side. progress is called with what begins. Nothing is left behind if the
    export fails or is stopped. Raises GlipExportError for an image_size that cannot be, BundleError if the output is
    a folder that is no bundle.
    """
    if image_size is not None:
        check_image_size(image_size)
        if model.config.detection.several_scales:
            raise GlipExportError(
                "an image size leaves one, and TEST.USE_MULTISCALE takes several: leave one of the two out"
            )
    say = progress or (lambda step: None)
    graphs = []
    with atomic_directory(output) as folder:
        for spec in graphs_of(model.config).values():
            say(f"{spec.name}: tracing")
            started = time.perf_counter()
            graph = trace(model, spec, image_size)
            say(f"{spec.name}: checking")
            file = folder / f"{spec.name}.onnx"
            onnx_ir.save(graph, file, external_data=f"{spec.name}.onnx.data")
            onnx.checker.check_model(str(file), full_check=True)
            graphs.append(
                Graph(
                    name=spec.name,
                    file=file.name,
                    opset=OPSET,
                    nodes=len(graph.graph),
                    parameters=sum(p.numel() for p in model.graph_module(spec.name).parameters()),
                    seconds=round(time.perf_counter() - started, 1),
                )
            )
            del graph
        say("hashing")
        write_manifest(
            folder,
            name=Path(output).name,
            config=model.config,
            weights=Weights(path=str(model.weights_path or ""), sha256=model.weights_sha256, ema=model.weights_ema),
            graphs=graphs,
            image_size=image_size,
            versions=installed_versions("torch", "onnx", "onnxscript", "onnx-ir", "transformers"),
        )
    return Bundle.open(output, verify=False)  # its files were hashed a moment ago


def trace(model: Glip, spec: GraphSpec, image_size: tuple[int, int] | None = None) -> onnx_ir.Model:
    """One module as an ONNX graph of standard operators, with the contract's names and axes."""
    sizes = example_axes(model, image_size)
    static = set() if image_size is None else set(pyramid_axes(*image_size))
    examples = [_example(tensor, sizes) for tensor in spec.inputs]
    shapes = [_dynamic_axes(tensor, static, _most_tokens(model.config)) for tensor in spec.inputs]
    with _folded(model), _quiet():
        program = torch.onnx.export(
            model.graph_module(spec.name),
            as_arguments(spec, examples),
            dynamo=True,
            opset_version=OPSET,
            input_names=spec.input_names,
            output_names=spec.output_names,
            dynamic_shapes=as_arguments(spec, shapes),
            custom_translation_table=translation_table(),
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise GlipExportError(f"the exporter gave no graph for {spec.name}")
    return _to_contract(program.model, model, spec, static, sizes)


def example_axes(model: Glip, image_size: tuple[int, int] | None) -> dict[str, int]:
    """Sizes to trace with: none is 1 and no two are equal by chance, or the exporter would take them as fixed."""
    varying = pyramid_axes(*(image_size or (9 * STRIDE, 13 * STRIDE)), overlapping=model.config.swin.is_v2)
    tokens = min(11, model.config.text.max_query_len)
    return {**fixed_axes(model.config), **varying, "B": 2, "T": tokens, "K": 7 if tokens != 7 else 5}


def _example(tensor: TensorSpec, sizes: dict[str, int]) -> torch.Tensor:
    shape = [axis if isinstance(axis, int) else sizes[axis] for axis in tensor.axes]
    generator = torch.Generator().manual_seed(0)
    if tensor.dtype == "float32":
        return torch.rand(shape, generator=generator)
    return torch.ones(shape, dtype=torch.int64)  # ids, masks and sizes alike


def _most_tokens(config: GlipConfig) -> int:
    """What the exporter may count on: a learned table of tokens' places ends somewhere."""
    has_table = config.swin.fuses_text or config.head.prompt_table
    return config.text.max_query_len if has_table else MAX_TOKENS


def _dynamic_axes(tensor: TensorSpec, static: set[str], most_tokens: int) -> dict[int, Any]:
    return {
        place: _dimension(axis, most_tokens)
        for place, axis in enumerate(tensor.axes)
        if isinstance(axis, str) and axis not in static and axis not in ("C", "L", "F")
    }


def _dimension(axis: str, most_tokens: int) -> Any:
    if axis in ("H", "W"):
        return STRIDE * Dim(f"{axis}_cells", min=2, max=MAX_CELLS)
    limits = {"B": 1024, "T": most_tokens, "K": MAX_CLASSES}
    return Dim(axis, min=2, max=limits.get(axis, MAX_CELLS * STRIDE // 8))


@contextlib.contextmanager
def _folded(model: Glip) -> Iterator[None]:
    model.fusion_head.fold()
    try:
        yield
    finally:
        model.fusion_head.fold(False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on torchvision, renamed axes and its own deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _keep_module(node: onnx_ir.Node) -> None:
    """Of the exporter's notes keeps the module that the node came from; the rest are paths of this computer."""
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))  # the last is the fx node
    node.metadata_props.clear()
    if len(scopes) > 1 and scopes[-2]:
        node.metadata_props[MODULE_KEY] = scopes[-2]


def _to_contract(
    graph: onnx_ir.Model, model: Glip, spec: GraphSpec, static: set[str], sizes: dict[str, int]
) -> onnx_ir.Model:
    """Gives inputs and outputs the contract's axis names, and the model its metadata."""
    fixed = {**fixed_axes(model.config), **{axis: sizes[axis] for axis in static}}
    values = [*graph.graph.inputs, *graph.graph.outputs]
    for tensor, value in zip([*spec.inputs, *spec.outputs], values, strict=True):
        if value.name != tensor.name or value.dtype is None or value.dtype.numpy() != tensor.dtype:
            raise GlipExportError(f"{spec.name}: the exporter made {value.name} {value.dtype} of {tensor.name}")
        value.shape = onnx_ir.Shape([axis if isinstance(axis, int) else fixed.get(axis, axis) for axis in tensor.axes])
    for node in graph.graph.all_nodes():
        _keep_module(node)
    graph.ir_version = IR_VERSION
    graph.producer_name = "glip-export"
    graph.metadata_props.update(
        {"glip.graph": spec.name, "glip.model": model.config.name, "glip.weights_sha256": model.weights_sha256}
    )
    return graph
