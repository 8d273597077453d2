"""The original's numbers of a picture seen at three scales, each mirrored too: see tests/data/oracle/README.md."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from glip_export.config import MultiscaleConfig, SizeRange
from glip_export.results.multiscale_nms import Boxes

FOLDER = Path(__file__).parent / "data" / "oracle" / "multiscale"
FORMS = ("none", "vote", "soft-vote", "soft-nms")


@cache
def case() -> dict[str, Any]:
    """names, overrides, and of each pass its size (w, h) and how many boxes it found and kept."""
    return json.loads((FOLDER / "case.json").read_text(encoding="utf-8"))


@cache
def stored() -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / "io.npz"))


def overrides() -> list[str]:
    """As KEY VALUE words."""
    return [str(word) for pair in case()["overrides"].items() for word in pair]


def settings(special_nms: str) -> MultiscaleConfig:
    """As the configuration has them."""
    given = case()["overrides"]
    return MultiscaleConfig(
        scales=tuple(given["TEST.SCALES"]),
        max_size=given["TEST.MAX_SIZE"],
        ranges=tuple(SizeRange(*pair) for pair in given["TEST.RANGES"]),
        flip=given["TEST.FLIP"],
        special_nms=special_nms,
        threshold=given["TEST.TH"],
        most=given["TEST.PRE_NMS_TOP_N"],
        num_classes=given["TEST.NUM_CLASSES"],
    )


def merged_input() -> Boxes:
    """All passes' boxes in the pixels of the picture as given; labels from 0."""
    return _boxes("merged_input")


def result(form: str) -> Boxes:
    """What the original made of them, by falling score."""
    if form in ("vote", "soft-vote"):
        found = _boxes(f"result_{form}")
    else:
        found = merged_input().part(stored()[f"result_{form}_index"])
        if form == "soft-nms":
            found = found._replace(scores=stored()["result_soft-nms_scores"])
    return found.part(np.argsort(-found.scores, kind="stable"))


def best_of_pass(step: dict[str, Any]) -> Boxes:
    """The best 40 of a pass in its own pixels, mirrored back, before those of the wrong size go."""
    return _boxes(f"scale{step['scale']}_{'flip' if step['hflip'] else 'plain'}")


def _boxes(name: str) -> Boxes:
    boxes, scores, labels = (stored()[f"{name}_{part}"] for part in ("boxes", "scores", "labels"))
    return Boxes(boxes, scores, labels.astype(np.int64) - 1)
