"""A bundle and a vocabulary to one ONNX file, from pictures to detections."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime

from glip_export.bundle import Bundle, installed_versions
from glip_export.bundle.baked_file import FORMAT, SUFFIX, BakedFile, seal
from glip_export.bundle.files import atomic_path
from glip_export.config import GlipConfig, config_to_dict
from glip_export.errors import BundleError, GlipExportError, PromptError
from glip_export.graphs.bake.compose import compose
from glip_export.graphs.bake.image_sizes import padding_tells, sizes_from_padding
from glip_export.graphs.bake.pixels import take_pixels
from glip_export.graphs.bake.simplify import simplify
from glip_export.graphs.bake.text_folding import fold_text
from glip_export.graphs.contracts import BAKED, FUSION_HEAD, TEXT_ENCODER, VISION_BACKBONE, check_image_size
from glip_export.graphs.precision import convert
from glip_export.prompt import Prompt, TokenizedChunk, class_map

PRECISIONS = ("fp32", "fp16", "int8")
MAX_BYTES = 2_000_000_000  # protobuf ends at 2 GiB

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Baked:
    """What a bake gave."""

    file: BakedFile
    inputs: dict[str, str]  # name -> dtype and axes, for a person
    outputs: dict[str, str]
    nodes_before: int  # of the three graphs
    nodes: int
    bytes_before: int
    bytes: int
    tokens: int
    seconds: float


def bake(
    bundle: Bundle | Path | str,
    prompt: Prompt,
    output: Path | str,
    *,
    precision: str | None = None,
    image_size: tuple[int, int] | None = None,
    pixels: bool = False,
    progress: Progress | None = None,
) -> Baked:
    """Writes one ONNX file: images f32 (B, 3, H, W) -> boxes, scores, labels, count, as the contract has them.

    Pictures are resized, normalised and padded with zeros as `image.preprocess` does it; boxes are in the pixels of the
    resized picture. precision: fp32, or fp16 with the islands of `graphs.islands`; by default the bundle's own. A
    bundle in int8 stays so. image_size: height and width, multiples of 32, of a static graph; by default the bundle's.
    pixels: the graph takes image, uint8 RGB (H, W, 3) of any size, in place of images, and resizes, normalises and pads
    it by itself; boxes are in its own pixels, and B is 1.
    Nothing is left behind if it fails. Raises BundleError, PromptError for a prompt that does not fit into one
    caption, and GlipExportError for what cannot be baked.
    """
    say = progress or (lambda step: None)
    started = time.perf_counter()
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    chosen = _checked_precision(opened, precision)
    size = _checked_size(opened, image_size)
    target = Path(output)
    if target.suffix.lower() != SUFFIX:
        raise GlipExportError(f"a baked model's name ends in {SUFFIX}, and {target.name!r} does not")
    chunk = only_caption(opened.config, prompt)
    say("running the text encoder")
    text = _text(opened, chunk)
    say("composing")
    backbone, head = (onnx_ir.load(opened.graph_path(spec.name)) for spec in (VISION_BACKBONE, FUSION_HEAD))
    model = compose(backbone, head, BAKED.name)
    say("folding what depends on text alone")
    fold_text(model, text)
    if chosen == "fp16":
        say("converting to fp16")
        model = convert(model, BAKED, chosen)
    if not pixels and padding_tells(opened.config.image):
        sizes_from_padding(model.graph)
    say("simplifying")
    simplify(model, size)
    if pixels:
        take_pixels(model.graph, opened.config.image, size)
    model.metadata_props.clear()
    inputs = [str(value.name) for value in model.graph.inputs]
    model.metadata_props.update(_metadata(opened, prompt, chunk, chosen, size, inputs))
    say("writing")
    _write(model, target)
    return Baked(
        file=BakedFile.open(target, verify=False),  # its bytes were hashed a moment ago
        inputs=_described(model.graph.inputs),
        outputs=_described(model.graph.outputs),
        nodes_before=sum(graph.nodes for graph in opened.graphs.values()),
        nodes=len(model.graph),
        bytes_before=sum(graph.bytes for graph in opened.graphs.values()),
        bytes=target.stat().st_size,
        tokens=len(chunk.input_ids),
        seconds=time.perf_counter() - started,
    )


def only_caption(config: GlipConfig, prompt: Prompt) -> TokenizedChunk:
    """The prompt as the one caption of a baked model. Raises PromptError where it takes several."""
    detection, limit = config.detection, config.text.max_query_len
    if 0 < detection.most_names < len(prompt.names):
        raise PromptError(
            f"the prompt has {len(prompt.names)} names, and the configuration has room for {detection.most_names}"
        )
    chunks = prompt.chunks(limit, config.text.separator, detection.chunk)
    if len(chunks) > 1:
        tokens = sum(len(chunk.input_ids) for chunk in chunks)
        raise PromptError(
            f"the prompt's {len(prompt.names)} names take {len(chunks)} captions ({tokens} tokens), and a baked model "
            f"holds one of at most {limit} tokens: bake the names in {len(chunks)} files"
        )
    return chunks[0]


def _checked_precision(bundle: Bundle, precision: str | None) -> str:
    own = bundle.precision
    if precision is None or precision == own:
        return own
    if precision not in PRECISIONS:
        raise GlipExportError(f"there is no precision {precision!r} here: choose one of {', '.join(PRECISIONS)}")
    if precision == "int8":
        raise BundleError(f"{bundle.path} is {own}: make its int8 first, with glip-export quantize, and bake that")
    if own != "fp32":
        raise BundleError(f"{bundle.path} is {own}; a baked model in {precision} is made of a bundle in fp32")
    return precision


def _checked_size(bundle: Bundle, image_size: tuple[int, int] | None) -> tuple[int, int] | None:
    if bundle.config.detection.several_scales:
        raise BundleError(
            f"{bundle.path} sees pictures at several scales (TEST.USE_MULTISCALE), and a baked model at one"
        )
    if image_size is None:
        return bundle.image_size
    check_image_size(image_size)
    if bundle.image_size not in (None, image_size):
        height, width = bundle.image_size
        raise BundleError(f"{bundle.path} is for pictures of {height}x{width} alone: leave the image size out")
    return image_size


def _text(bundle: Bundle, chunk: TokenizedChunk) -> dict[str, np.ndarray]:
    """What the fusion head is given of one caption, by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(bundle.graph_path(TEXT_ENCODER.name)), options, providers=["CPUExecutionProvider"]
    )
    ids = chunk.input_ids[None]
    mask = np.ones_like(ids)
    (features,) = session.run(TEXT_ENCODER.output_names, {"input_ids": ids, "attention_mask": mask})
    classes = class_map(chunk, bundle.config.detection.score_agg)[None]
    return {"text_features": features, "attention_mask": mask, "class_map": classes}


def _metadata(
    bundle: Bundle,
    prompt: Prompt,
    chunk: TokenizedChunk,
    precision: str,
    size: tuple[int, int] | None,
    inputs: list[str],
) -> dict[str, str]:
    """What the file says of itself, so that neither the bundle nor this package is needed to run it."""
    image, detection = bundle.config.image, bundle.config.detection
    graphs = hashlib.sha256()
    for _, graph in sorted(bundle.graphs.items()):
        for name in (graph.file, *graph.data):
            graphs.update(bundle.files[name].sha256.encode())
    facts: dict[str, Any] = {
        "glip.names": list(prompt.names),
        "glip.image": {**asdict(image), "inputs": inputs, "size": size},
        "glip.detection": {
            "score_threshold": detection.score_threshold,
            "nms_threshold": detection.nms_threshold,
            "most": detection.most_detections,
        },
        "glip.config": config_to_dict(bundle.config),
        "glip.versions": installed_versions("glip-export", "onnx", "onnx-ir", "onnxscript"),
    }
    words = {
        "glip.graph": BAKED.name,
        "glip.format": str(FORMAT),
        "glip.caption": chunk.caption,
        "glip.precision": precision,
        "glip.model": bundle.config.name,
        "glip.bundle": bundle.name,
        "glip.graphs_sha256": graphs.hexdigest(),
        "glip.weights_sha256": bundle.weights.sha256,
    }
    return {**words, **{key: json.dumps(value) for key, value in facts.items()}}


def _write(model: onnx_ir.Model, target: Path) -> None:
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size > MAX_BYTES:
        raise GlipExportError(f"the baked model would be {size / 1e9:.1f} GB, and one file holds 2 GB: take --fp16")
    onnx_ir.external_data.load_to_model(model)
    proto = onnx_ir.to_proto(model)
    content = proto.SerializeToString()
    with atomic_path(target) as unfinished, open(unfinished, "wb") as file:
        for part in seal(content):
            file.write(part)
        file.flush()
        onnx.checker.check_model(str(unfinished), full_check=True)


def _described(values: Any) -> dict[str, str]:
    """The dtype and axes of each, for a person: images float32 (B, 3, H, W)."""
    return {
        str(value.name): f"{value.dtype.numpy().name} ({', '.join(str(axis) for axis in _axes(value))})"
        for value in values
    }


def _axes(value: onnx_ir.Value) -> list[Any]:
    return [axis if isinstance(axis, int) else axis.value for axis in value.shape or ()]
