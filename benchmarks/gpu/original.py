"""A backend's outputs on the oracle's pictures beside the original GLIP's own numbers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from models import oracle

if TYPE_CHECKING:
    from glip_export.parity.run import Outputs


def against_original(outputs: Outputs, share: float | None) -> tuple[dict[str, Any], list[str]]:
    """What was found, and what of it is wrong: beyond the ladder's tolerance, or too few found again.

    outputs: of the oracle's pictures as one batch and its caption, in resized pixels; feature maps and text are held to
    the original's samples of them. share: of its clear detections that must be there, in lower precision; None for
    fp32, which is held to the ladder's tolerance throughout.
    """
    from glip_export.config import load_config
    from glip_export.parity.metrics import Tolerance
    from glip_export.parity.pairing import Detections, pair
    from glip_export.parity.recall import found_again, together

    case, tolerance = oracle(), Tolerance()
    threshold = load_config(case.config, (), case.bert_config).detection.nms_threshold
    (chunk,) = outputs.chunks
    far = {"bert_hidden": case.compare("bert_hidden", np.asarray(chunk.text_features))}
    for level, feature in zip(range(3, 8), outputs.features, strict=True):
        far[f"fpn_P{level}"] = case.compare(f"fpn_P{level}", np.asarray(feature))
    ours = [Detections(*slots) for slots in zip(chunk.boxes, chunk.scores, chunk.labels, strict=True)]
    theirs = [_original(picture) for picture in range(len(ours))]
    recall = together(found_again(a, b) for a, b in zip(theirs, ours, strict=True))
    pairs = [pair(a, b, tolerance, threshold) for a, b in zip(theirs, ours, strict=True)]
    if share is not None:
        again = recall.counted > 0 and recall.within(share)
        problems = [] if again else [f"{recall.found} of the original's {recall.counted} clear detections found again"]
    else:
        problems = [
            f"{name}: {value:.1e} off the original's" for name, value in far.items() if not value <= tolerance.relative
        ]
        problems += [f"picture {n}: not the original's" for n, one in enumerate(pairs) if not one.within(tolerance)]
    return {"tensors": far, "recall": asdict(recall), "pictures": [asdict(one) for one in pairs]}, problems


def _original(picture: int) -> Any:
    """The original's detections, best first: its own order means nothing, and its labels count from 1."""
    from glip_export.parity.pairing import Detections

    boxes, scores, labels = (oracle().stored[f"result{picture}_{part}"] for part in ("boxes", "scores", "labels"))
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], labels[order] - 1)
