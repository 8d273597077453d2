"""Average precision of a model in training on a few held-out scenes."""

from __future__ import annotations

from pathlib import Path

from glip_export.evaluation import CocoDataset, evaluate_coco
from glip_export.evaluation.average_precision import PRECISIONS
from glip_export.model.glip import Glip
from glip_export.runtime.detector import Detector
from glip_export.runtime.torch_session import TorchSession

BATCH = 4


def average_precision(model: Glip, folder: Path, limit: int | None = None) -> dict[str, float]:
    """COCO's box AP of the first `limit` pictures of a data set that `write_scenes` made, asked for all categories.

    Values 0..1, -1 where a size does not occur. Raises GlipExportError without the extra `eval`, and for a broken set.
    """
    dataset = CocoDataset.read(folder / "annotations.json", folder / "images", limit)
    dataset.check_annotated()
    detector = Detector(TorchSession(model), model.config)
    found = evaluate_coco(detector, dataset, batch=BATCH, strict=True).scores.values
    return {name: -1.0 if (value := found[name]) is None else value for name in PRECISIONS}
