"""make demo: is the exported demo model still the trained one, and does it find what a prompt names?

Compares every CPU backend of the bundle with PyTorch, tensor by tensor and by average precision on scenes that
training never saw, and asks three prompts about `picture.jpg`, whose objects are known. Ends with 1 if a backend is
out of tolerance or an answer is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table
from rich.text import Text

from glip_export import Bundle, Detections, Detector
from glip_export.cli.console import console, run_app, steps_progress
from glip_export.evaluation import CocoDataset, CocoResult, evaluate_coco
from glip_export.evaluation.report import CocoReport
from glip_export.image import load_image
from glip_export.parity.cases import Case
from glip_export.parity.ladder import ParityResult, climb_all
from glip_export.results.pictures import write_picture
from glip_export.runtime.backends import available_backends
from glip_export.training.scenes import scene_sets, write_scenes

HERE = Path(__file__).parent
PICTURE = HERE / "picture.jpg"  # composed as the scenes are; its objects are in picture.json
SHOWN = 0.4  # score from which a detection is an answer
SAME = 0.5  # IoU from which a box is the object's
FP32_AP, LOWER_AP = 0.001, 0.005  # how far from torch's AP a backend may be


@dataclass(frozen=True)
class Answer:
    """A prompt's detections on the picture, and how many of the objects it names were found; anything else is wrong."""

    prompt: str
    detections: Detections
    right: int
    objects: int
    wrong: int

    @property
    def passed(self) -> bool:
        """Every object that the prompt names, of which there is one at least, and nothing else."""
        return self.right == self.objects > 0 and not self.wrong


def main() -> None:
    """Runs it all and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("engines/demo"))
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    parser.add_argument("--scenes", type=int, default=30, help="held-out scenes to measure average precision on")
    arguments = parser.parse_args()
    started = time.monotonic()
    bundle = Bundle.open(arguments.bundle)
    usable = available_backends(bundle)
    words = [word for word in ("torch", "onnxruntime", "openvino", "openvino:bf16") if word in usable]
    detectors = {word: Detector.open(arguments.bundle, word) for word in words}
    with steps_progress() as progress:
        task = progress.add_task("composing scenes")
        scenes = arguments.output / "scenes"
        dataset = CocoDataset.read(write_scenes(scene_sets()["val"], arguments.scenes, scenes), scenes / "images")
        results = {}
        for word, detector in detectors.items():
            progress.update(task, description=f"average precision: {word}")
            results[word] = evaluate_coco(detector, dataset)
        parity = _parity(detectors, dataset, lambda step: progress.update(task, description=f"parity: {step}"))
        progress.update(task, description="asking")
        answers = _ask(detectors["onnxruntime"])
    console.print(_table(results, parity))
    for answer in answers:
        word = Text("right", "green") if answer.passed else Text("WRONG", "red")
        found = f"{answer.right} of {answer.objects} objects found, {answer.wrong} other boxes"
        console.print(word, f" {answer.prompt!r}: {found}")
    picture = arguments.output / "demo.png"
    _draw(answers, picture)
    console.print(f"{time.monotonic() - started:.0f} s. Open {picture}", soft_wrap=True)
    sys.exit(0 if answers and all(answer.passed for answer in answers) and _near(dataset, results, parity) else 1)


def _parity(detectors: dict[str, Detector], dataset: CocoDataset, tell: object) -> dict[str, ParityResult]:
    """Every fp32 backend against torch on the picture, and on three scenes of different sizes as one batch."""
    reference = detectors["torch"]
    config = reference.config
    pictures = [load_image(dataset.folder / image.file_name) for image in dataset.images[:3]]
    cases = [
        *(Case(prompt, (load_image(PICTURE),), prompt, config.image) for prompt in _known()["prompts"]),
        Case("three scenes, all names", tuple(pictures), ". ".join(dataset.names), config.image, padding_tokens=5),
    ]
    exact = {word: found for word, found in detectors.items() if word != "torch" and ":" not in word}
    sessions = [found.session for found in exact.values()]
    return dict(zip(exact, climb_all(reference.session, sessions, config, cases, progress=tell), strict=True))


def _ask(detector: Detector) -> list[Answer]:
    known = _known()
    picture = load_image(PICTURE)
    features = detector.encode_images([picture])  # once; the prompts share them
    answers = []
    for prompt in known["prompts"]:
        found = detector.detect_encoded(features, prompt)[0].above(SHOWN)
        wanted = [(name, item["box"]) for item in known["objects"] for name in item["names"] if name in found.classes]
        left = list(wanted)
        for name, box in zip(found.names, found.boxes, strict=True):
            same = [entry for entry in left if entry[0] == name and _iou(box, entry[1]) >= SAME]
            if same:
                left.remove(max(same, key=lambda entry: _iou(box, entry[1])))
        right = len(wanted) - len(left)
        answers.append(Answer(prompt, found, right, len(wanted), len(found) - right))
    return answers


def _known() -> dict:
    """picture.json: "prompts", and "objects" with "box" (x1, y1, x2, y2) and the "names" that are right for each."""
    return json.loads((HERE / "picture.json").read_text(encoding="utf-8"))


def _iou(box: np.ndarray, other: list[float]) -> float:
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    both = float(np.prod(np.clip(high - low, 0, None)))
    areas = [float((each[2] - each[0]) * (each[3] - each[1])) for each in (box, other)]
    return both / (sum(areas) - both)


def _near(dataset: CocoDataset, results: dict[str, CocoResult], parity: dict[str, ParityResult]) -> bool:
    """Whether every backend is compared with torch and within tolerance."""
    allowed = {word: LOWER_AP if ":" in word else FP32_AP for word in results if word != "torch"}
    same = not CocoReport(dataset, results, {}).too_far(allowed)
    return same and bool(parity) and all(found.passed for found in parity.values())


def _table(results: dict[str, CocoResult], parity: dict[str, ParityResult]) -> Table:
    pictures = results["torch"].pictures
    table = Table(title=f"against PyTorch: parity, and average precision on {pictures} held-out scenes")
    table.add_column("backend")
    for column in (
        "max|diff|/rms",
        "detections paired",
        "box, px",
        "score",
        "AP",
        "AP50",
        "AP - torch's",
        "ms a scene",
    ):
        table.add_column(column, justify="right")
    first = results["torch"].scores.values
    for word, found in results.items():
        values = found.scores.values
        cells = ["", "", "", ""]
        if word in parity:
            diffs = list(parity[word].pictures())
            cells = [
                f"{max(diff.relative for _, diff in parity[word].worst().values()):.1e}",
                f"{sum(diff.paired for diff in diffs)} of {sum(diff.reference for diff in diffs)}",
                f"{max(diff.box_px for diff in diffs):.1e}",
                f"{max(diff.score for diff in diffs):.1e}",
            ]
        difference = "" if word == "torch" else f"{values['AP'] - first['AP']:+.4f}"
        speed = f"{found.seconds / found.pictures * 1000:.0f}"
        table.add_row(word, *cells, f"{values['AP']:.3f}", f"{values['AP50']:.3f}", difference, speed)
    return table


def _draw(answers: list[Answer], target: Path) -> None:
    """The picture with each prompt's boxes, side by side under the prompts."""
    width, gap, bar = 512, 16, 44
    panels = [_enlarged(answer.detections, width) for answer in answers]
    canvas = Image.new("RGB", (len(panels) * (width + gap) - gap, panels[0].height + bar), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(20)
    for index, (answer, panel) in enumerate(zip(answers, panels, strict=True)):
        canvas.paste(panel, (index * (width + gap), bar))
        pen.text((index * (width + gap), bar // 2), answer.prompt, fill="black", font=font, anchor="lm")
    write_picture(target, canvas, "PNG")


def _enlarged(detections: Detections, width: int) -> Image.Image:
    """Drawn on the picture at that width, that the names can be read."""
    picture = Image.open(PICTURE).convert("RGB")
    scale = width / picture.width
    large = picture.resize((width, round(picture.height * scale)), Image.Resampling.LANCZOS)
    boxes = (detections.boxes * scale).astype(np.float32)
    enlarged = replace(detections, boxes=boxes, image_size=(large.height, large.width))
    return enlarged.draw(large, SHOWN)


if __name__ == "__main__":
    run_app(main, "demo.py")
