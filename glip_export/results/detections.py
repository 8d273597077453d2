"""The result of detection: boxes, scores, labels and names of one picture."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glip_export.errors import BackendError, GlipExportError, ImageError, PromptError
from glip_export.image import Picture, load_image
from glip_export.results.drawing import draw_boxes
from glip_export.results.nms import kept_over_all_classes


@dataclass(frozen=True, eq=False)
class Detections:
    """N detections in one picture, by falling score.

    Boxes are xyxy in the pixels of the picture as given (upright, where EXIF turns it).
    """

    boxes: NDArray[np.float32]  # (N, 4)
    scores: NDArray[np.float32]  # (N,)
    labels: NDArray[np.int64]  # (N,), index into classes
    classes: tuple[str, ...]
    image_size: tuple[int, int]  # h, w

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.scores.shape != (count,) or self.labels.shape != (count,):
            raise ValueError(f"boxes {self.boxes.shape}, scores {self.scores.shape}, labels {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The name of each detection."""
        return [self.classes[label] for label in self.labels]

    def above(self, threshold: float) -> Detections:
        """Those that score at least `threshold`."""
        keep = self.scores >= threshold
        return replace(self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep])

    def class_agnostic_nms(self, iou_threshold: float) -> Detections:
        """Of boxes that overlap by more than iou_threshold, whatever their names, the one that scores best.

        IoU with 1 added to widths and heights, as the original counts, in the picture's own pixels; of equal scores
        the smaller index stays.
        """
        keep = kept_over_all_classes(self.boxes, self.scores, iou_threshold)
        return replace(self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep])

    def to_dict(self) -> dict[str, Any]:
        """For JSON: boxes to a thousandth of a pixel, scores to six digits."""
        height, width = self.image_size
        return {
            "image": {"height": int(height), "width": int(width)},
            "classes": list(self.classes),
            "detections": [
                {
                    "name": name,
                    "label": int(label),
                    "score": round(float(score), 6),
                    "box": [round(float(side), 3) for side in box],
                }
                for name, label, score, box in zip(self.names, self.labels, self.scores, self.boxes, strict=True)
            ],
        }

    def to_coco(self, image_id: int | str, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """COCO results: xywh with 1 added to w and h as in the original; label i is the i-th of the sorted ids.

        Raises PromptError if there are not as many ids as classes, GlipExportError for what is no id.
        """
        if isinstance(category_ids, Mapping):
            raise GlipExportError("category_ids are the data set's ids in any order, not a mapping")
        if len(category_ids) != len(self.classes):
            raise PromptError(f"the prompt has {len(self.classes)} names but COCO has {len(category_ids)} categories")
        ids = sorted(_whole(category_id, "category") for category_id in category_ids)
        image_id = str(image_id) if isinstance(image_id, str) else _whole(image_id, "image")
        return [
            {
                "image_id": image_id,
                "category_id": ids[label],
                "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1],
                "score": float(score),
            }
            for label, score, (x1, y1, x2, y2) in zip(self.labels, self.scores, self.boxes.tolist(), strict=True)
        ]

    def to_supervision(self) -> Any:
        """As supervision.Detections: xyxy, confidence, class_id, and the names as data["class_name"].

        Raises BackendError if the supervision package is not installed.
        """
        try:
            supervision: Any = import_module("supervision")
        except ImportError as error:
            raise BackendError(f"supervision cannot be imported ({error}): pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),  # copies: annotators may write to them
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def draw(self, image: Picture, threshold: float = 0.5) -> Image.Image:
        """The picture (anything `load_image` takes) with the boxes, names and scores of at least `threshold`.

        Raises ImageError if it is not of `image_size`.
        """
        picture = load_image(image)
        if picture.shape[:2] != tuple(self.image_size):
            height, width = self.image_size
            raise ImageError(
                f"these detections are of a picture of {width} x {height} pixels, "
                f"not of {picture.shape[1]} x {picture.shape[0]}"
            )
        shown = self.above(threshold)
        texts = [f"{name.strip()} {score:.2f}" for name, score in zip(shown.names, shown.scores, strict=True)]
        return draw_boxes(picture, shown.boxes, shown.labels, texts)


def concatenate(parts: Sequence[Detections]) -> Detections:
    """The detections of a prompt's chunks as one: labels shifted by the classes before them, by falling score.

    As in the original there is no NMS and no limit across chunks. Equal scores keep their order.
    """
    if not parts:
        raise ValueError("no detections to concatenate")
    shifts = np.cumsum([0] + [len(part.classes) for part in parts[:-1]])
    scores = np.concatenate([part.scores for part in parts])
    order = np.argsort(-scores, kind="stable")
    return Detections(
        boxes=np.concatenate([part.boxes for part in parts])[order],
        scores=scores[order],
        labels=np.concatenate([part.labels + shift for part, shift in zip(parts, shifts, strict=True)])[order],
        classes=tuple(name for part in parts for name in part.classes),
        image_size=parts[0].image_size,
    )


def _whole(value: object, what: str) -> int:
    """An id as Python's own int: NumPy's integers are no JSON, and a cut fraction would be another's id."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise GlipExportError(f"{value!r} is no id of a COCO {what}: give a whole number") from None
