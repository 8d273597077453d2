"""A data set small enough to compute by hand, and a detector that answers what it is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from glip_export import Detector
from glip_export.config import GlipConfig
from glip_export.evaluation.dataset import CocoDataset
from glip_export.evaluation.prompts import prompt_for
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections

NAMES = ["cat", "coffee cup", "rocket"]  # of the set of photos
IDS = (4, 20, 31)

Found = tuple[int, float, tuple[float, float, float, float]]  # label, score, xyxy


class Answers:
    """Stands for a Detector: knows a picture by its red value, which is its id, and answers `found[id]`."""

    config = GlipConfig()
    session = SimpleNamespace(name="answers")

    def __init__(self, found: dict[int, list[Found]]) -> None:
        self.found = found
        self.batches: list[list[int]] = []
        self.prompts: list[Prompt] = []
        self.chunks: list[int | None] = []

    def detect(self, pictures: Sequence[np.ndarray], prompt: Prompt, chunk: int | None = None) -> list[Detections]:
        ids = [int(picture[0, 0, 0]) for picture in pictures]
        self.batches.append(ids)
        self.prompts.append(prompt)
        self.chunks.append(chunk)
        return [self._answer(image_id, picture, prompt) for image_id, picture in zip(ids, pictures, strict=True)]

    def _answer(self, image_id: int, picture: np.ndarray, prompt: Prompt) -> Detections:
        found = sorted(self.found.get(image_id, []), key=lambda each: -each[1])
        return Detections(
            boxes=np.array([box for _, _, box in found], np.float32).reshape(-1, 4),
            scores=np.array([score for _, score, _ in found], np.float32),
            labels=np.array([label for label, _, _ in found], np.int64),
            classes=prompt.names,
            image_size=picture.shape[:2],
        )


def write_set(
    folder: Path,
    images: dict[int, tuple[int, int]],
    objects: Sequence[tuple[int, int, Sequence[float]]] = (),
    categories: Sequence[tuple[int, str]] = ((1, "cat"),),
    change: Any = None,
) -> tuple[Path, Path]:
    """Writes pictures (id: (h, w)) and annotations (image id, category id, xywh); the annotation file and the folder.

    change: is given the content before it is written.
    """
    pictures = folder / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    for image_id, (height, width) in images.items():
        Image.new("RGB", (width, height), (image_id, 0, 0)).save(pictures / f"{image_id}.png")
    content = {
        "images": [
            {"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width}
            for image_id, (height, width) in images.items()
        ],
        "annotations": [
            {"id": number, "image_id": image_id, "category_id": category_id, "bbox": list(box), "iscrowd": 0}
            for number, (image_id, category_id, box) in enumerate(objects, start=1)
        ],
        "categories": [{"id": category_id, "name": name} for category_id, name in categories],
    }
    if change is not None:
        change(content)
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json", pictures


def check_asked(dataset: CocoDataset, config: GlipConfig, case: Mapping[str, Any]) -> None:
    """Holds labels, captions, input ids and token maps to a case of the original (tests/data/oracle/odinw_prompts)."""
    labels = {str(place): number for place, number in enumerate(dataset.category_ids, start=1)}
    assert labels == case["label_to_json_category_id"]
    assert dict(zip(labels, dataset.names, strict=True)) == case["categories"]
    chunks = Detector(SimpleNamespace(), config).chunks(prompt_for(dataset, None, config))  # type: ignore[arg-type]
    assert [chunk.caption for chunk in chunks] == case["captions"]
    assert [chunk.input_ids.tolist() for chunk in chunks] == case["input_ids"]
    assert [
        {str(chunk.first + place): list(tokens) for place, tokens in enumerate(chunk.class_tokens, start=1)}
        for chunk in chunks
    ] == case["positive_maps"]
