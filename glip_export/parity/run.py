"""One session run end to end on one batch, and whether its outputs keep the graphs' contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glip_export.config import GlipConfig
from glip_export.graphs.contracts import (
    FUSION_HEAD,
    TEXT_ENCODER,
    VISION_BACKBONE,
    GraphSpec,
    fixed_axes,
    graphs_of,
    pyramid_axes,
)
from glip_export.runtime.session import F32, I64, Pyramid, Session

_BOX_SLACK = 0.01  # pixels a clipped corner may stand outside by rounding


@dataclass(frozen=True)
class TextInputs:
    """One chunk of a prompt: T tokens, K classes."""

    input_ids: I64  # (T,)
    attention_mask: I64  # (T,)
    class_map: F32  # (T, K)


@dataclass(frozen=True)
class Inputs:
    """One padded batch of B pictures and the chunks of its prompt."""

    images: F32  # (B, 3, H, W)
    sizes: I64  # (B, 2) as h, w before padding
    chunks: tuple[TextInputs, ...]
    fuses_text: bool = False  # whether the backbone takes the text too


@dataclass(frozen=True)
class ChunkOutputs:
    """What the text encoder and the fusion head give for one chunk; D slots for detections."""

    text_features: F32  # (B, T, L)
    boxes: F32  # (B, D, 4) xyxy in resized pixels
    scores: F32  # (B, D)
    labels: I64  # (B, D)
    count: I64  # (B,)
    backbone: tuple[F32, ...] = ()  # P3..P7 and the text, where the backbone fuses text


@dataclass(frozen=True)
class Outputs:
    """Everything a session gives for one batch."""

    features: Pyramid  # P3..P7; () where the backbone fuses text, so that they are a chunk's
    chunks: tuple[ChunkOutputs, ...]


def run(session: Session, inputs: Inputs) -> Outputs:
    """Text encoder, vision backbone and fusion head, each fed with the same session's outputs.

    The picture's features are computed once for all chunks, as the detector does.
    """
    features = () if inputs.fuses_text else session.vision_backbone(inputs.images)
    return Outputs(features, tuple(_run_chunk(session, features, inputs, text) for text in inputs.chunks))


def _run_chunk(session: Session, features: Pyramid, inputs: Inputs, text: TextInputs) -> ChunkOutputs:
    batch = len(inputs.images)
    input_ids = _repeat(text.input_ids, batch)
    attention_mask = _repeat(text.attention_mask, batch)
    class_map = _repeat(text.class_map, batch)
    text_features = session.text_encoder(input_ids, attention_mask)
    backbone: tuple[F32, ...] = ()
    head_text = text_features
    if inputs.fuses_text:
        backbone = session.vision_backbone(inputs.images, text_features, attention_mask)
        features, head_text = backbone[:-1], backbone[-1]
    detections = session.fusion_head(features, head_text, attention_mask, class_map, inputs.sizes)
    return ChunkOutputs(text_features, *detections, backbone)


def broken_rules(outputs: Outputs, inputs: Inputs, config: GlipConfig) -> tuple[str, ...]:
    """The graphs' contract, checked on outputs; one line a broken rule, each starting with the output's name."""
    batch, _, height, width = inputs.images.shape
    axes = {"B": batch, **pyramid_axes(height, width, config.swin.is_v2), **fixed_axes(config)}
    spec = graphs_of(config)[VISION_BACKBONE.name]
    problems = [] if inputs.fuses_text else _broken_tensors(spec, outputs.features, axes)
    for chunk, text in zip(outputs.chunks, inputs.chunks, strict=True):
        tokens, classes = text.class_map.shape
        problems += _broken_tensors(TEXT_ENCODER, (chunk.text_features,), {**axes, "T": tokens})
        if inputs.fuses_text:
            problems += _broken_tensors(spec, chunk.backbone, {**axes, "T": tokens})
        wrong = _broken_tensors(FUSION_HEAD, (chunk.boxes, chunk.scores, chunk.labels, chunk.count), axes)
        problems += wrong or _broken_detections(chunk, inputs.sizes, classes)
    return tuple(dict.fromkeys(problems))


def _broken_tensors(graph: GraphSpec, arrays: Sequence[NDArray[Any]], axes: Mapping[str, int]) -> list[str]:
    """Dtype, shape and finiteness of one graph's outputs."""
    problems = []
    for spec, array in zip(graph.outputs, arrays, strict=True):
        shape = tuple(axes[axis] if isinstance(axis, str) else axis for axis in spec.axes)
        bad = int((~np.isfinite(array)).sum())
        if array.dtype != spec.dtype:
            problems.append(f"{spec.name}: {array.dtype} instead of {spec.dtype}")
        if array.shape != shape:
            problems.append(f"{spec.name}: shape {array.shape} instead of {shape}")
        if bad:
            problems.append(f"{spec.name}: {bad} of {array.size} values are NaN or infinite")
    return problems


def _broken_detections(chunk: ChunkOutputs, sizes: I64, classes: int) -> list[str]:
    used = np.arange(chunk.scores.shape[1])[None, :] < chunk.count[:, None]  # (B, D)
    falling = (np.diff(chunk.scores, axis=1) <= 0) | ~used[:, 1:]
    last = sizes[:, ::-1].astype(np.float64) - 1  # (B, 2): x and y of the last pixel
    beyond = (chunk.boxes < -_BOX_SLACK) | (chunk.boxes > np.tile(last, 2)[:, None, :] + _BOX_SLACK)
    rules = {
        "count: not the number of labels in front of the empty slots": (chunk.labels >= 0) != used,
        f"labels: outside -1 .. {classes - 1}": (chunk.labels < -1) | (chunk.labels >= classes),
        "scores: not falling": ~falling,
        "boxes: outside the picture": beyond & used[:, :, None],
    }
    return [rule for rule, broken in rules.items() if broken.any()]


def _repeat(array: NDArray[Any], batch: int) -> NDArray[Any]:
    """(...) -> (B, ...), contiguous as backends want it."""
    return np.repeat(array[None], batch, axis=0)
