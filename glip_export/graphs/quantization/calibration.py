"""The three graphs of a bundle over calibration pictures: the ranges of their activations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from glip_export.bundle import Bundle
from glip_export.bundle.files import CACHE, sha256_file
from glip_export.graphs.contracts import FUSION_HEAD, GRAPHS, TEXT_ENCODER, VISION_BACKBONE, graphs_of
from glip_export.graphs.quantization.ranges import RangeFinder
from glip_export.graphs.quantization.rewrite import activations
from glip_export.image import load_image, preprocess
from glip_export.prompt import Prompt, TokenizedChunk, class_map

ALGORITHM = 1  # raised when the same pictures would give other ranges

Advance = Callable[[int], None]  # pictures done
Feeds = dict[str, dict[str, NDArray]]


@dataclass(frozen=True)
class Calibration:
    """What a bundle's activations were on some pictures, by graph and value."""

    sha256: str  # of the graphs, pictures, prompt and method
    pictures: tuple[Path, ...]
    prompt: Prompt
    method: str
    ranges: dict[str, dict[str, float]]
    mean_squares: dict[str, dict[str, float]]


def calibrate(
    bundle: Bundle,
    pictures: Sequence[Path],
    prompt: Prompt,
    method: str = "minmax",
    threads: int | None = None,
    advance: Advance | None = None,
) -> Calibration:
    """Runs each picture with a caption of the prompt in turn; goes on where a killed call with the same things was.

    Raises ImageError for a picture that cannot be read, PromptError for a prompt that the model cannot take.
    """
    chunks = captions(bundle, prompt)
    key = calibration_key(bundle, pictures, prompt, method)
    finders = {}
    for name in GRAPHS:
        model = onnx_ir.load(bundle.graph_path(name))
        finders[name] = RangeFinder(bundle.graph_path(name), activations(model), method, threads)
    kept = work_folder(bundle, key)
    for name, finder in finders.items():
        finder.load(kept / f"{name}.json")
    # Killed between two saves, one knows a picture that another does not: it only runs it again.
    for place in range(min(finder.pictures for finder in finders.values()), len(pictures)):
        _run(bundle, finders, pictures[place], chunks[place % len(chunks)], place)
        for name, finder in finders.items():
            finder.save(kept / f"{name}.json")
        if advance is not None:
            advance(place + 1)
    ranges = {name: finder.ranges() for name, finder in finders.items()}
    squares = {name: finder.mean_squares() for name, finder in finders.items()}
    return Calibration(key, tuple(pictures), prompt, method, ranges, squares)


def captions(bundle: Bundle, prompt: Prompt) -> tuple[TokenizedChunk, ...]:
    """The prompt as the model takes it; raises PromptError."""
    text = bundle.config.text
    return prompt.chunks(text.max_query_len, text.separator)


def feeds(bundle: Bundle, picture: Path, chunk: TokenizedChunk) -> Iterator[tuple[str, dict[str, NDArray]]]:
    """A graph's name and inputs that are known before any graph has run, in the order of work."""
    ids = np.asarray(chunk.input_ids, np.int64)[None]
    mask = np.ones_like(ids)
    batch = preprocess([load_image(picture)], bundle.config.image, bundle.image_size)
    yield TEXT_ENCODER.name, {"input_ids": ids, "attention_mask": mask}
    yield VISION_BACKBONE.name, {"images": batch.images, "attention_mask": mask}
    tokens = class_map(chunk, bundle.config.detection.score_agg)[None]
    yield FUSION_HEAD.name, {"attention_mask": mask, "class_map": tokens, "image_sizes": batch.sizes}


def calibration_key(bundle: Bundle, pictures: Sequence[Path], prompt: Prompt, method: str) -> str:
    """SHA-256 of all that decides the ranges: the graphs' and pictures' bytes, the prompt and the method."""
    graphs = {name: file.sha256 for name, file in bundle.files.items() if "/" not in name}
    parts = [ALGORITHM, graphs, [sha256_file(picture) for picture in pictures], prompt.key, method]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def work_folder(bundle: Bundle, key: str) -> Path:
    """Where a calibration is kept as it goes: in the bundle's cache."""
    folder = bundle.path / CACHE / f"quantize-{key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(bundle: Bundle, finders: dict[str, RangeFinder], picture: Path, chunk: TokenizedChunk, place: int) -> None:
    known: dict[str, NDArray] = {}
    for name, given in feeds(bundle, picture, chunk):
        known.update(given)
        spec = graphs_of(bundle.config)[name]
        finder, inputs = finders[name], {key: known[key] for key in spec.input_names}
        made = finder.add(inputs) if finder.pictures == place else finder.outputs(inputs)
        known.update(made)
        if "fused_text_features" in made:
            known["text_features"] = made["fused_text_features"]
