"""COCO's average precision and recall of boxes, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glip_export.errors import GlipExportError
from glip_export.evaluation.dataset import CocoDataset
from glip_export.evaluation.entries import ImageId, rising

PRECISIONS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
RECALLS = ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")
ALL_AREAS, MOST_DETECTIONS = 0, -1  # COCO's indices: any area, 100 detections a picture


@dataclass(frozen=True)
class ClassScore:
    """Of one category; values 0..1, None without an object of it."""

    id: int
    name: str
    objects: int  # not counting crowds
    values: Mapping[str, float | None]  # AP, AP50, AR100


@dataclass(frozen=True)
class Scores:
    """COCO's numbers: by the names of PRECISIONS and RECALLS, 0..1, None where there is no object of that size."""

    values: Mapping[str, float | None]
    classes: tuple[ClassScore, ...]


def score(dataset: CocoDataset, results: Iterable[Mapping[str, Any]], image_ids: Sequence[ImageId]) -> Scores:
    """The results (COCO's form: image_id, category_id, bbox xywh, score) against the data set, on those pictures.

    Raises GlipExportError without pycocotools.
    """
    coco, cocoeval = load_pycocotools()
    # Places instead of ids: pycocotools takes an annotation with the id 0 for none, and ids may be of any size.
    images = {image_id: place for place, image_id in enumerate(sorted(image_ids, key=rising))}
    # In the order of the ids, as pycocotools has them: the order of the labels would add in another order.
    categories = {category_id: place for place, category_id in enumerate(sorted(dataset.category_ids))}
    truth = [
        _entry(images[item.image_id], categories[item.category_id], item.box, area=item.area, iscrowd=int(item.crowd))
        for item in dataset.objects
        if item.image_id in images
    ]
    found = [
        _entry(
            images[result["image_id"]],
            categories[result["category_id"]],
            result["bbox"],
            area=result["bbox"][2] * result["bbox"][3],
            score=result["score"],
        )
        for result in results
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it works
        evaluation = cocoeval(
            *(_index(coco(), images, categories, entries) for entries in (truth, found)), iouType="bbox"
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    objects = Counter(entry["category_id"] for entry in truth if not entry["iscrowd"])
    return Scores(
        dict(zip((*PRECISIONS, *RECALLS), map(_value, evaluation.stats), strict=True)),
        tuple(
            ClassScore(category.id, category.name, objects[place], _class_values(evaluation.eval, place))
            for category, place in ((each, categories[each.id]) for each in dataset.categories)
        ),
    )


def load_pycocotools() -> tuple[Any, Any]:
    """Its COCO and COCOeval. Raises GlipExportError where it is not installed."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise GlipExportError("average precision needs pycocotools: pip install 'glip-export[eval]'") from error
    return COCO, COCOeval


def _entry(image: int, category: int, box: Sequence[float], **others: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "iscrowd": 0, **others}


def _index(
    coco: Any, images: Mapping[ImageId, int], categories: Mapping[int, int], entries: list[dict[str, Any]]
) -> Any:
    """A COCO object of those entries; pycocotools' own loadRes fails on no results at all."""
    for number, entry in enumerate(entries, start=1):
        entry["id"] = number
    coco.dataset = {
        "images": [{"id": place} for place in images.values()],
        "categories": [{"id": place} for place in categories.values()],
        "annotations": entries,
    }
    coco.createIndex()
    return coco


def _class_values(found: Mapping[str, Any], place: int) -> dict[str, float | None]:
    precision = found["precision"][:, :, place, ALL_AREAS, MOST_DETECTIONS]  # (IoU thresholds, recalls)
    recall = found["recall"][:, place, ALL_AREAS, MOST_DETECTIONS]
    return {"AP": _mean(precision), "AP50": _mean(precision[0]), "AR100": _mean(recall)}


def _mean(values: NDArray[np.float64]) -> float | None:
    valid = values[values > -1]
    return float(valid.mean()) if len(valid) else None


def _value(value: float) -> float | None:
    return float(value) if value > -1 else None
