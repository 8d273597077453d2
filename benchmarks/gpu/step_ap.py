"""AP of the demo model on held-out scenes by every backend, beside the CPU's, which was measured beforehand.

The scenes are in the parcel (`run.py --prepare`), with the CPU's AP on them and pycocotools, which computes it.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from context import Context, FailedError, Part, SkippedError, is_lower
from models import DEMO, bundle_of

if TYPE_CHECKING:
    from glip_export.bundle import Bundle
    from glip_export.evaluation import CocoDataset, CocoResult
    from glip_export.runtime.detector import Detector

BACKENDS = (
    "torch:cuda:fp16",
    "torch:cuda:fp32",
    "torch:cuda:bf16",
    "torch:cuda:fp16:fused",
    "onnxruntime:cuda",
    "onnxruntime:cuda:fp16",
    "stand-in:fp16",
)
ALLOWED = {"fp32": 0.001, "lower": 0.005}  # of AP, as in benchmarks/run_ap.py
SCENES, REFERENCE, PACKAGES = "scenes", "ap-reference.json", "packages"  # in the parcel
BATCH = 3
REHEARSED = 6  # pictures


def parts(context: Context) -> list[Part]:
    """A backend each."""
    return [(backend.replace(":", "-"), partial(_measure, context, backend)) for backend in BACKENDS]


def _measure(context: Context, backend: str) -> dict[str, Any]:
    from glip_export.runtime.detector import Detector

    limit = REHEARSED if context.rehearsal else None
    dataset = read_scenes(context, limit)
    bundle = bundle_of(context, DEMO)
    expected = reference(context, bundle, dataset, limit)
    with context.session(bundle, backend) as session:
        found = evaluate(Detector(session, bundle.config, bundle.image_size), dataset)
    scores = dict(found.scores.values)
    difference = scores["AP"] - expected["AP"]
    allowed = ALLOWED["lower" if is_lower(backend) else "fp32"]
    line = f"AP {scores['AP']:.4f}, {difference:+.4f} of the CPU's, on {found.pictures} scenes in {found.seconds:.1f} s"
    facts = {
        "line": line,
        "scores": scores,
        "reference": expected,
        "difference": difference,
        "allowed": allowed,
        "pictures": found.pictures,
        "detections": len(found.detections),
        "seconds": found.seconds,
    }
    if abs(difference) > allowed:
        raise FailedError(f"{line}: more than {allowed}", facts)
    return facts


def read_scenes(context: Context, limit: int | None = None) -> CocoDataset:
    """Those of the parcel. Raises SkippedError where they, or pycocotools, are not there."""
    from glip_export.errors import GlipExportError
    from glip_export.evaluation import CocoDataset
    from glip_export.evaluation.average_precision import load_pycocotools

    folder, packages = context.parcel / SCENES, str(context.parcel / PACKAGES)
    if not (folder / "annotations.json").is_file():
        raise SkippedError(f"{folder} is not there: make it where there is a network, with run.py --prepare")
    if packages not in sys.path:
        sys.path.append(packages)  # last: what is installed goes first
    try:
        load_pycocotools()
    except GlipExportError as error:
        raise SkippedError(f"{error}, or bring {packages} along") from error
    return CocoDataset.read(folder / "annotations.json", folder / "images", limit)


def reference(context: Context, bundle: Bundle, dataset: CocoDataset, limit: int | None) -> dict[str, float | None]:
    """The CPU's scores: the parcel's if they are of this model and these scenes, else measured here."""
    asked = asked_of(bundle, dataset, limit)
    for path in (context.parcel / REFERENCE, kept := context.output / REFERENCE):
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(known, dict) and known.get("asked") == asked:
            return known["scores"]
    return write_reference(kept, asked, bundle, dataset)["scores"]


def asked_of(bundle: Bundle, dataset: CocoDataset, limit: int | None = None) -> dict[str, Any]:
    """What tells one reference from another."""
    return {"weights": bundle.weights.sha256, "annotations": dataset.sha256, "limit": limit}


def write_reference(path: Any, asked: dict[str, Any], bundle: Bundle, dataset: CocoDataset) -> dict[str, Any]:
    """ONNX Runtime's scores on the CPU, and what they are of."""
    from glip_export.bundle.files import atomic_write_text
    from glip_export.runtime.detector import Detector

    found = {"asked": asked, "scores": dict(evaluate(Detector.open(bundle.path), dataset).scores.values)}
    atomic_write_text(path, json.dumps(found, indent=1) + "\n")
    return found


def evaluate(detector: Detector, dataset: CocoDataset) -> CocoResult:
    """All names in one caption, in batches as the package's own evaluation has them."""
    from glip_export.evaluation import evaluate_coco

    return evaluate_coco(detector, dataset, batch=BATCH, strict=True)
