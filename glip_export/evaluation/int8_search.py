"""What int8 costs in AP: of each module alone, and which go back to float so that a bundle stays near fp32's."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glip_export.bundle import Bundle
from glip_export.bundle.files import atomic_write_text
from glip_export.errors import GlipExportError
from glip_export.evaluation.average_precision import load_pycocotools
from glip_export.evaluation.coco import evaluate_coco
from glip_export.evaluation.dataset import CocoDataset
from glip_export.graphs.quantization.calibration import Calibration, work_folder
from glip_export.graphs.quantization.int8_bundle import int8_modules, write_int8_bundle
from glip_export.runtime.detector import Detector

Bar = Callable[[str, int], Callable[[int], None]]  # what is evaluated, of how many pictures


@dataclass(frozen=True)
class Searched:
    """The bundle that holds the drop, the APs, and the modules that went back to float for it."""

    bundle: Bundle
    fp32: float
    int8: float
    went_back: tuple[str, ...]

    def line(self) -> str:
        """For a person."""
        back = f"{len(self.went_back)} modules went back to float" if self.went_back else "nothing went back to float"
        return f"AP {self.fp32:.3f} in fp32, {self.int8:.3f} in int8 (onnxruntime): {back}"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"fp32": self.fp32, "int8": self.int8, "went_back": list(self.went_back), "backend": "onnxruntime"}


def annotated_pictures(annotations: Path, folder: Path) -> CocoDataset:
    """The pictures that APs are measured on, checked before any work; raises GlipExportError."""
    load_pycocotools()
    dataset = CocoDataset.read(annotations, folder)
    dataset.check_annotated()
    return dataset


def ap_of_each(
    bundle: Bundle,
    calibration: Calibration,
    modules: Sequence[str],
    dataset: CocoDataset,
    threads: int | None = None,
    bar: Bar | None = None,
) -> tuple[float, dict[str, float]]:
    """The fp32 bundle's AP, and with each module alone in int8; a killed call goes on."""
    measured = _Measured(bundle, calibration, dataset, threads, bar)
    every = {module for listed in int8_modules(bundle).values() for module in listed}
    alone = {module: measured.int8(f"{module} in int8", every - {module}) for module in modules}
    return measured.fp32(), alone


def within_drop(
    bundle: Bundle,
    output: Path,
    calibration: Calibration,
    order: Sequence[str],
    kept: Sequence[str],
    dataset: CocoDataset,
    drop: float,
    threads: int | None = None,
    bar: Bar | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Searched:
    """Writes the int8 bundle whose AP falls no more than `drop`, with as few of `order`'s first modules in float.

    order: the most sensitive first. kept: float in any case. facts: for the manifest, beside the APs. APs are kept in
    the fp32 bundle's cache, so that a killed search goes on; what is tried is written there too, so that `output` is
    the one that was found, or not touched. Raises GlipExportError where even all of them in float are not enough.
    """
    measured = _Measured(bundle, calibration, dataset, threads, bar)
    reference = measured.fp32()

    def ap_with(count: int) -> float:
        back = {*kept, *order[:count]}
        return measured.int8(f"int8, {len(back)} modules in float", back)

    few, many, step = -1, 0, 1
    while reference - ap_with(many) > drop:
        if many == len(order):
            raise GlipExportError(
                f"with every module in float the AP still falls by {reference - ap_with(many):.4f}, more than "
                f"--max-ap-drop {drop}: allow more"
            )
        few, many, step = many, min(many + step, len(order)), step * 2
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if reference - ap_with(middle) <= drop else (middle, many)
    searched = Searched(bundle, reference, ap_with(many), tuple(order[:many]))
    found = {**(facts or {}), "ap": searched.to_json()}
    return replace(searched, bundle=write_int8_bundle(bundle, output, calibration, [*kept, *order[:many]], found))


class _Measured:
    """APs by which modules are float, kept in a file as they come."""

    def __init__(
        self, bundle: Bundle, calibration: Calibration, dataset: CocoDataset, threads: int | None, bar: Bar | None
    ) -> None:
        self.bundle, self.calibration, self.dataset = bundle, calibration, dataset
        self.threads, self.bar = threads, bar
        folder = work_folder(bundle, calibration.sha256)
        self.trial = folder / "trial"
        self.path = folder / f"ap-{dataset.sha256[:16]}.json"
        try:
            self.known: dict[str, float] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def fp32(self) -> float:
        """Of the bundle as it is."""
        return self._ap("fp32", "fp32", lambda: self.bundle)

    def int8(self, words: str, floats: Iterable[str]) -> float:
        """Of a bundle in int8 with these modules in float; words: for the bar."""
        listed = sorted(floats)
        key = hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
        return self._ap(key, words, lambda: write_int8_bundle(self.bundle, self.trial, self.calibration, listed))

    def _ap(self, key: str, words: str, made: Callable[[], Bundle]) -> float:
        if key not in self.known:
            try:
                detector = Detector.open(made().path, backend="onnxruntime", threads=self.threads)
                tell = _silent if self.bar is None else self.bar(f"AP of {words}", len(self.dataset.images))
                value = evaluate_coco(detector, self.dataset, progress=tell).values["AP"]
            finally:
                shutil.rmtree(self.trial, ignore_errors=True)
            if value is None:
                raise GlipExportError(f"{self.dataset.path} holds nothing that an AP could be measured on")
            self.known[key] = value
            atomic_write_text(self.path, json.dumps(self.known))
        return self.known[key]


def _silent(done: int) -> None:
    return
