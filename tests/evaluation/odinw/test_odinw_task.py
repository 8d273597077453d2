"""Task YAMLs of ODinW: where their files are, what they change, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from task_files import BOX, named, write_task

from glip_export.config import CaptionWords, GlipConfig, TaskCategory, TaskConfig
from glip_export.errors import GlipExportError
from glip_export.evaluation.odinw import read_dataset, read_tasks

DATA = Path(__file__).parents[2] / "data" / "odinw"
AQUARIUM = "odinw/Aquarium/Aquarium Combined.v2-raw-1024.coco/valid"
CATS = ((1, "cat"), (2, "dog"))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "annotations_without_background.json").touch()


def test_a_yaml_as_odinw_has_it(tmp_path: Path) -> None:
    touch(tmp_path, AQUARIUM)
    (task,) = read_tasks([DATA / "Aquarium.yaml"], tmp_path, GlipConfig())
    assert (task.name, task.split, task.images) == ("Aquarium", "val", tmp_path / AQUARIUM)
    assert task.annotations == tmp_path / AQUARIUM / "annotations_without_background.json"
    assert task.config.task.categories == (
        TaskCategory(1, "fish"),
        TaskCategory(3, "penguin"),
        TaskCategory(7, "stingray"),
    )
    assert task.config.task.words == (
        CaptionWords(" ", "fish", ""),
        CaptionWords("", "penguin", " , which is black and white"),
        CaptionWords("", "stingray", " which is flat and round"),
    )
    assert not task.groups_by_aspect and task.file.without_influence == ()


def test_the_other_style_and_another_split(tmp_path: Path) -> None:
    folders = [f"odinw/EgoHands/generic/{each}" for each in ("mini_val", "test")]
    touch(tmp_path, *folders)
    (task,) = read_tasks([DATA / "EgoHands.yaml"], tmp_path, GlipConfig())
    assert (task.split, task.images) == ("minival", tmp_path / folders[0])
    assert task.config.task.words == () and task.config.task.categories == (TaskCategory(1, "hand"),)
    (other,) = read_tasks([DATA / "EgoHands.yaml"], tmp_path, GlipConfig(), "test")
    assert other.images == tmp_path / folders[1] and other.config == task.config


def test_the_switches(tmp_path: Path) -> None:
    touch(tmp_path, AQUARIUM)
    (task,) = read_tasks([DATA / "Aquarium.yaml"], tmp_path, GlipConfig(), override=False, prompts=False)
    assert task.config.task.categories == () and task.config.task.words == ()


def test_what_a_task_changes_and_what_it_leaves(tmp_path: Path) -> None:
    """INPUT, DATALOADER, DATASETS and CHUNKED_EVALUATION are read after the model is built; MODEL is not."""
    path = write_task(
        tmp_path,
        CATS,
        [(1, 1, BOX)],
        {"SEPARATION_TOKENS": " . ", "USE_SUPRESS_QUERY": True, "SUPRESS_QUERY": "['sofa']"},
        INPUT={"MIN_SIZE_TEST": 640, "PIXEL_MEAN": [1.0, 2.0, 3.0]},
        TEST={"CHUNKED_EVALUATION": 1, "IMS_PER_BATCH": 8, "MDETR_STYLE_AGGREGATE_CLASS_NUM": 100},
        MODEL={"ATSS": {"NUM_CLASSES": 3, "DETECTIONS_PER_IMG": 300}},
    )
    words = (CaptionWords("a ", "model's", ""),)
    bundle = replace(GlipConfig(), task=TaskConfig(caption_prompt=words), name="demo")
    (task,) = read_tasks([path], tmp_path, bundle)
    image = replace(bundle.image, min_size=640, mean=(1.0, 2.0, 3.0))
    assert task.config == replace(
        bundle,
        image=image,
        text=replace(bundle.text, separator=" . "),
        detection=replace(bundle.detection, chunk=1),
        task=TaskConfig(True, (), True, words, True, ("sofa",)),  # the task has no CAPTION_PROMPT: the model's stays
    )
    assert task.groups_by_aspect  # the original's default
    assert task.file.without_influence == (
        "MODEL.ATSS.DETECTIONS_PER_IMG 300",
        "TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM 100",
    )


def test_notes_say_what_has_no_influence(tmp_path: Path) -> None:
    path = write_task(tmp_path, CATS, [(1, 1, BOX)], MODEL={"ATSS": {"NUM_CLASSES": 3, "NMS_TH": 0.5}})
    (task,) = read_tasks([path], tmp_path, GlipConfig())
    (note,) = read_dataset(task).notes
    assert note == "without influence in a task's YAML, for the model is built before: MODEL.ATSS.NMS_TH 0.5"


def test_a_folder_of_tasks_and_names_that_meet(tmp_path: Path) -> None:
    first, second = (write_task(tmp_path / name, CATS, [(1, 1, BOX)]) for name in ("odinw_13", "odinw_35"))
    (tmp_path / "odinw_13" / "_all.json").write_text("[]")
    roots = [tmp_path / "odinw_13"]
    assert [task.name for task in read_tasks([first, *roots], roots[0], GlipConfig())] == ["toys"]
    tasks = read_tasks([first, second], tmp_path / "odinw_13", GlipConfig())
    assert [task.name for task in tasks] == ["odinw_13-toys", "odinw_35-toys"]


def test_several_data_sets_of_a_task(tmp_path: Path) -> None:
    path = write_task(tmp_path, CATS, [(1, 1, BOX)], {"TEST": '(("val",), ("again", "val"))'})
    content = yaml.safe_load(path.read_text())
    content["DATASETS"]["REGISTER"]["again"] = content["DATASETS"]["REGISTER"]["val"]
    path.write_text(yaml.safe_dump(content))
    assert [task.name for task in read_tasks([path], tmp_path, GlipConfig())] == ["toys-val", "toys-again"]


@pytest.mark.parametrize(
    ("datasets", "sections", "words"),
    [
        ({"TEST": "()"}, {}, r"DATASETS\.TEST names no data set .*give --split"),
        ({"TEST": '("valid",)'}, {}, r"DATASETS\.REGISTER has no 'valid', but val"),
        (
            {"REGISTER": {"val": {"img_dir": "../x", "ann_file": "a.json"}}},
            {},
            r"val\.img_dir '\.\./x' leaves the folder",
        ),
        ({"REGISTER": {"val": {"img_dir": "x", "ann_file": "/a.json"}}}, {}, r"val\.ann_file '/a\.json' leaves"),
        ({"REGISTER": {"val": {"img_dir": "x"}}}, {}, r"val\.ann_file is None, not a path"),
        (
            {"REGISTER": {"val": {"img_dir": "x", "ann_file": "a.json"}}},
            {},
            r"no annotation file .*a\.json; --images is",
        ),
        (
            {"CAPTION_PROMT": "x"},
            {},
            r"toys\.yaml: DATASETS\.CAPTION_PROMT is not a key .*did you mean DATASETS\.CAPTION_",
        ),
        ({"OVERRIDE_CATEGORY": [{"id": "x"}]}, {}, r"DATASETS\.OVERRIDE_CATEGORY .*entry 1 is"),
        ({}, {"TEST": {"USE_MULTISCALE": True}}, r"USE_MULTISCALE is not taken from a task"),
        ({}, {"TEST": {"SUBSET": 3}}, r"TEST\.SUBSET 3 .*--limit"),
        ({}, {"INPUT": {"MIN_SIZE_TEST": "big"}}, r"INPUT\.MIN_SIZE_TEST big .*expected a whole number"),
        ({}, {"MODEL": {"MASK_ON": True}}, r"MODEL\.MASK_ON True .*mask heads"),
    ],
)
def test_what_is_refused(tmp_path: Path, datasets, sections, words: str) -> None:  # type: ignore[no-untyped-def]
    path = write_task(tmp_path, CATS, [(1, 1, BOX)], datasets, **sections)
    with pytest.raises(GlipExportError, match=words):
        read_tasks([path], tmp_path, GlipConfig())


def test_data_sets_of_other_verbs(tmp_path: Path) -> None:
    register = {"lvis_evaluation_mini_val": {"img_dir": "coco", "ann_file": "a.json"}}
    path = write_task(tmp_path, CATS, [(1, 1, BOX)], {"REGISTER": register, "TEST": '("lvis_evaluation_mini_val",)'})
    with pytest.raises(GlipExportError, match=r"lvis_evaluation_mini_val is no data set of ODinW: see .* eval lvis"):
        read_tasks([path], tmp_path, GlipConfig())


def test_no_folder_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(GlipExportError, match="does not exist or is no folder"):
        read_tasks([DATA], tmp_path / "none", GlipConfig())
    with pytest.raises(GlipExportError, match="has no task's YAML"):
        read_tasks([tmp_path], tmp_path, GlipConfig())
    with pytest.raises(GlipExportError, match=r"none\.yaml: cannot read the configuration"):
        read_tasks([tmp_path / "none.yaml"], tmp_path, GlipConfig())


def test_a_prompt_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CAPTION_PROMPT that is no list is a YAML's path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.yaml").write_text("- {prefix: 'some ', name: cats, suffix: ''}\n")
    path = write_task(tmp_path, CATS[:1], [(1, 1, BOX)], {"OVERRIDE_CATEGORY": named(*CATS[:1])})
    content = yaml.safe_load(path.read_text())
    content["DATASETS"]["CAPTION_PROMPT"] = "words.yaml"
    path.write_text(yaml.safe_dump(content))
    assert read_tasks([path], tmp_path, GlipConfig())[0].config.task.words == (CaptionWords("some ", "cats", ""),)
    content["DATASETS"]["CAPTION_PROMPT"] = "none.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(GlipExportError, match=r"DATASETS\.CAPTION_PROMPT none\.yaml .*neither a list"):
        read_tasks([path], tmp_path, GlipConfig())
    assert read_tasks([path], tmp_path, GlipConfig(), prompts=False)[0].config.task.words == ()


@pytest.mark.parametrize("given", ["('val')", "val"])
def test_one_name_without_a_comma_is_no_list(tmp_path: Path, given: str) -> None:
    path = write_task(tmp_path, CATS, [(1, 1, BOX)], {"TEST": given})
    with pytest.raises(GlipExportError, match=r'expected a list such as \(1, 2\); with one name it is \("val",\)'):
        read_tasks([path], tmp_path, GlipConfig())
