"""The Detector's own answers to the requests of a load, and how far a server's are from them."""

from __future__ import annotations

import io
import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glip_export import Detector
from glip_export.results.detections import Detections

PICTURES = Path(__file__).parents[2] / "glip_export" / "data" / "pictures"
PROMPTS = ("cat", "cat. remote control", "person. rocket. cup of coffee. astronaut", "small dog. red apple")
BOX_PIXELS = 0.02
SCORE = 1e-4
_MARK = itertools.count()


@dataclass(frozen=True, eq=False)
class Case:
    """A picture, a prompt, and what the Detector finds in that picture alone."""

    picture: bytes
    prompt: str
    expected: Detections

    def fresh_picture(self) -> bytes:
        """The same picture in bytes that no server has seen: a JPEG's decoder reads nothing after its end."""
        return self.picture + b"%d-%d" % (next(_MARK), random.getrandbits(64))


@dataclass
class Differences:
    """The worst of the answers compared, and how many were beyond BOX_PIXELS or SCORE or of other names."""

    compared: int = 0
    wrong: int = 0
    box: float = 0.0
    score: float = 0.0
    first_wrong: str = field(default="")

    def add(self, case: Case, result: dict[str, Any]) -> bool:
        """Compares one result of an answer; whether it is right."""
        self.compared += 1
        box, score = difference(case.expected, result)
        right = box <= BOX_PIXELS and score <= SCORE
        if not right:
            self.wrong += 1
            self.first_wrong = self.first_wrong or f"{case.prompt!r}: box {box:g} px, score {score:g}"
        else:
            self.box, self.score = max(self.box, box), max(self.score, score)
        return right


def make_cases(
    detector: Detector, sizes: tuple[tuple[int, int], ...], prompts: tuple[str, ...] = PROMPTS
) -> list[Case]:
    """Every packaged photo at every size (width, height), with every prompt."""
    cases = []
    for path in sorted(PICTURES.glob("*.jpg")):
        for size in sizes:
            stream = io.BytesIO()
            Image.open(path).convert("RGB").resize(size).save(stream, "JPEG", quality=90)
            picture = stream.getvalue()
            encoded = detector.encode_images([picture])
            cases += [Case(picture, prompt, detector.detect_encoded(encoded, prompt)[0]) for prompt in prompts]
    return cases


def difference(expected: Detections, result: dict[str, Any]) -> tuple[float, float]:
    """(box, score): the largest distances of a result's detections from the expected ones of the same name.

    Infinite for another number, other names, or another picture's size.
    """
    found = result["detections"]
    if result["classes"] != list(expected.classes) or len(found) != len(expected):
        return np.inf, np.inf
    if (result["image"]["height"], result["image"]["width"]) != expected.image_size:
        return np.inf, np.inf
    free = np.ones(len(found), bool)
    worst_box = worst_score = 0.0
    for one in found:
        distance = np.abs(expected.boxes - np.array(one["box"], np.float32)).max(axis=1)
        score = np.abs(expected.scores - one["score"])
        cost = np.where(free & (expected.labels == one["label"]), distance + score * 100, np.inf)
        match = int(cost.argmin()) if len(cost) else -1
        if match < 0 or not np.isfinite(cost[match]):
            return np.inf, np.inf
        free[match] = False
        worst_box, worst_score = max(worst_box, float(distance[match])), max(worst_score, float(score[match]))
    return worst_box, worst_score
