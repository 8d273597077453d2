"""ODinW's data sets against the original: captions, token maps and labels, the background, the words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from answers import Answers, check_asked
from task_files import BOX, change, named, write_task

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.evaluation.odinw import OdinwTask, evaluate_odinw, read_dataset, read_tasks
from glip_export.evaluation.odinw.evaluate import asked_config
from glip_export.prompt import Prompt

CASES = json.loads((Path(__file__).parents[2] / "data" / "oracle" / "odinw_prompts" / "prompts.json").read_text())
XYXY = (10, 20, 109, 119)
BACKGROUND = ((0, "toys"), (1, "cat"), (2, "dog"))


def task_of(root: Path, *given: Any, override: bool = True, prompts: bool = True, **named: Any) -> OdinwTask:
    (task,) = read_tasks([write_task(root, *given, **named)], root, GlipConfig(), override=override, prompts=prompts)
    return task


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{Path(case['config']).stem}" for n, case in enumerate(CASES)])
def test_a_tasks_caption_is_the_originals(case: dict[str, Any], tmp_path: Path) -> None:
    listed = [(each["id"], each["name"]) for each in case["annotation_categories"]]
    datasets = {
        "OVERRIDE_CATEGORY": case["override_category"],
        "SEPARATION_TOKENS": case["separation_tokens"],
        **({"CAPTION_PROMPT": case["caption_prompt"]} if case["caption_prompt"] else {}),
    }
    task = task_of(
        tmp_path,
        listed,
        [(1, number, BOX) for number, _ in listed],
        datasets,
        override=case["use_override_category"],
        prompts=case["use_caption_prompt"],
        TEST={"CHUNKED_EVALUATION": case["chunked_evaluation"]},
    )
    dataset = read_dataset(task)
    check_asked(dataset, asked_config(task, dataset), case)
    unknown = [problem.kind for problem in dataset.problems]
    assert set(unknown) == (set() if case["reading_the_first_item"] == "ok" else {"annotation: unknown category"})


def test_a_background_keeps_its_place_and_is_not_asked_for(tmp_path: Path) -> None:
    """As in the original: names begin at label 2, and an object of the background is one that is never found."""
    task = task_of(tmp_path, BACKGROUND, [(1, 1, BOX), (1, 0, (120, 120, 50, 50)), (1, 2, (0, 0, 20, 20))])
    dataset = read_dataset(task)
    assert dataset.category_ids == (0, 1, 2) and [each.name for each in dataset.asked] == ["cat", "dog"]
    assert dataset.notes == ("not asked for, as in the original: 'toys' (id 0), whose objects count as never found",)
    detector = Answers({1: [(0, 0.9, XYXY), (1, 0.8, (0, 0, 19, 19))]})
    result = evaluate_odinw(lambda: detector, task, dataset)
    assert detector.prompts == [Prompt.of(["cat", "dog"])]
    assert [found["category_id"] for found in result.detections] == [1, 2]
    assert [each.values["AP"] for each in result.scores.classes] == [0, pytest.approx(1.0), pytest.approx(1.0)]
    assert result.values["AP"] == pytest.approx(2 / 3)


def test_a_background_without_objects_does_not_count(tmp_path: Path) -> None:
    categories = ((1, "cat"), (5, "__background__"), (2, "dog"))
    task = task_of(tmp_path, categories, [(1, 1, BOX), (1, 2, (0, 0, 20, 20))])
    dataset = read_dataset(task)
    assert dataset.notes == ("not asked for, as in the original: '__background__' (id 5)",)
    detector = Answers({1: [(0, 0.9, XYXY), (1, 0.8, (0, 0, 19, 19))]})
    result = evaluate_odinw(lambda: detector, task, dataset)
    assert [found["category_id"] for found in result.detections] == [1, 2]
    assert result.values["AP"] == pytest.approx(1.0)


def test_nothing_but_a_background(tmp_path: Path) -> None:
    with pytest.raises(GlipExportError, match=r"background\.json has no category to ask for: not asked for.*toys"):
        read_dataset(task_of(tmp_path, BACKGROUND[:1], [(1, 0, BOX)]))


def test_words_are_the_tasks(tmp_path: Path) -> None:
    """A background has none: the first are those of the first category that is asked for. Those beyond are unread."""
    words = [{"prefix": "a ", "name": name, "suffix": ""} for name in ("kitten", "puppy", "pony")]
    datasets = {"OVERRIDE_CATEGORY": named(*BACKGROUND), "CAPTION_PROMPT": words}
    task = task_of(tmp_path, BACKGROUND, [(1, 1, BOX)], datasets)
    detector = Answers({1: [(0, 0.9, XYXY)]})
    result = evaluate_odinw(lambda: detector, task, read_dataset(task))
    assert detector.prompts == [Prompt.from_words([("a ", "kitten", ""), ("a ", "puppy", "")], ["cat", "dog"])]
    assert result.values["AP"] == pytest.approx(1.0)


def test_too_few_words(tmp_path: Path) -> None:
    words = [{"prefix": "a ", "name": "kitten", "suffix": ""}]
    task = task_of(tmp_path, BACKGROUND, [(1, 1, BOX)], {"CAPTION_PROMPT": words})
    with pytest.raises(GlipExportError, match=r"toys\.yaml: DATASETS\.CAPTION_PROMPT has words for 1 .* has 2; --no-c"):
        read_dataset(task)
    dataset = read_dataset(task, chunk=1)  # each caption begins with the first words again
    assert "category 2 with the words of category 1 ('kitten')" in dataset.notes[1]


def test_pictures_run_one_by_one_or_wide_ones_apart(tmp_path: Path) -> None:
    task = task_of(tmp_path, BACKGROUND, [(1, 1, BOX)], pictures=3)
    sizes = {1: (100, 200), 2: (200, 200), 3: (100, 200)}
    content = json.loads(task.annotations.read_text())
    images = [{**image, "height": sizes[image["id"]][0]} for image in content["images"]]
    change(task.annotations, images=images)
    dataset = read_dataset(task)
    batches = []
    for batch in (1, 2):
        detector = Answers({})
        evaluate_odinw(lambda detector=detector: detector, task, dataset, batch=batch)  # type: ignore[misc]
        batches.append(detector.batches)
    assert batches == [[[1], [2], [3]], [[1, 3], [2]]]
