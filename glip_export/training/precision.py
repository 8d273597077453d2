"""Average precision of a model in training on a few held-out scenes."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np

from glip_export.errors import GlipExportError
from glip_export.model.glip import Glip
from glip_export.runtime.detector import Detector
from glip_export.runtime.torch_session import TorchSession

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
BATCH = 4


def average_precision(model: Glip, folder: Path, limit: int | None = None) -> dict[str, float]:
    """COCO's box AP of the first `limit` pictures of a data set that `write_scenes` made, asked for all categories.

    Values 0..1, -1 where a size does not occur. Raises GlipExportError without the extra `eval`.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise GlipExportError("average precision needs pycocotools: pip install 'glip-export[eval]'") from error
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations.json"))
        category_ids = sorted(truth.getCatIds())
        names = [category["name"] for category in truth.loadCats(category_ids)]
        image_ids = sorted(truth.getImgIds())[:limit]
        paths = [folder / "images" / image["file_name"] for image in truth.loadImgs(image_ids)]
        detections = Detector(TorchSession(model), model.config).detect(paths, names, batch_size=BATCH)
        results = [
            found
            for image_id, detected in zip(image_ids, detections, strict=True)
            for found in detected.to_coco(image_id, category_ids)
        ]
        if not results:
            return dict.fromkeys(NAMES, 0.0)
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, np.asarray(evaluation.stats[:6], float).tolist(), strict=True))
