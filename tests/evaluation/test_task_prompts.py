"""What a task's settings (ODinW) make `eval coco` ask for, against the original's captions, token maps and labels."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from answers import Answers, check_asked, write_set

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export import Detector
from glip_export.bundle.files import MANIFEST
from glip_export.config import CaptionWords, GlipConfig, TaskCategory, TaskConfig, config_to_dict, load_config
from glip_export.errors import GlipExportError, PromptError
from glip_export.evaluation import CocoDataset, evaluate_coco
from glip_export.evaluation.prompts import prompt_for, prompt_notes
from glip_export.prompt import Prompt

ORACLE = Path(__file__).parents[1] / "data" / "oracle"
CASES = json.loads((ORACLE / "odinw_prompts" / "prompts.json").read_text())
BOX = (10, 20, 100, 100)
XYXY = (10, 20, 109, 119)
HOLES = TaskConfig(use_caption_prompt=True, caption_prompt=(CaptionWords("some ", "holes", " on the road"),))


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{Path(case['config']).stem}" for n, case in enumerate(CASES)])
def test_captions_and_token_maps_are_the_originals(case, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = configured(case)
    listed = [(each["id"], each["name"]) for each in case["annotation_categories"]]
    truth = [(1, listed[0][0], BOX)]
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200)}, truth, listed), categories=config.task.categories)
    check_asked(dataset, config, case)
    left_out = [problem.kind for problem in dataset.problems]
    assert left_out == ([] if case["reading_the_first_item"] == "ok" else ["annotation: unknown category"])


def configured(case) -> GlipConfig:  # type: ignore[no-untyped-def]
    """With the task's settings as KEY VALUE, as its YAML holds them."""
    overrides = [
        *("DATASETS.USE_OVERRIDE_CATEGORY", str(case["use_override_category"])),
        *("DATASETS.OVERRIDE_CATEGORY", repr(case["override_category"])),
        *("DATASETS.USE_CAPTION_PROMPT", str(case["use_caption_prompt"])),
        *("DATASETS.CAPTION_PROMPT", repr(case["caption_prompt"])),
        *("TEST.CHUNKED_EVALUATION", str(case["chunked_evaluation"])),
        *("DATASETS.SEPARATION_TOKENS", case["separation_tokens"]),
    ]
    return load_config(ORACLE / "full_dump" / "config.yaml", overrides, ORACLE / "full_dump" / "bert_config.json")


def asking(task: TaskConfig, found=None, **detection) -> Answers:  # type: ignore[no-untyped-def]
    detector = Answers(found or {})
    plain = GlipConfig()
    detector.config = replace(plain, task=task, detection=replace(plain.detection, **detection))
    return detector


def test_labels_follow_the_override_and_ids_come_back(tmp_path: Path) -> None:
    """The order of the override, which is neither the file's nor that of the ids."""
    task = TaskConfig(True, (TaskCategory(9, "dog"), TaskCategory(2, "cat")))
    files = write_set(tmp_path, {1: (200, 200)}, [(1, 9, BOX), (1, 2, (0, 0, 20, 20))], [(2, "Katze"), (9, "Hund")])
    dataset = CocoDataset.read(*files, categories=task.categories)
    detector = asking(task, {1: [(0, 0.9, XYXY), (1, 0.8, (0, 0, 19, 19))]})
    result = evaluate_coco(detector, dataset)
    assert detector.prompts[0].names == ("dog", "cat")
    assert [found["category_id"] for found in result.detections] == [9, 2]
    assert result.scores.values["AP"] == pytest.approx(1.0)
    assert [(each.id, each.name) for each in result.scores.classes] == [(9, "dog"), (2, "cat")]
    with pytest.raises(GlipExportError, match=r"OVERRIDE_CATEGORY replaces the categories of .*annotations\.json"):
        evaluate_coco(detector, CocoDataset.read(*files))


def test_background_of_an_override_is_not_asked_for(tmp_path: Path) -> None:
    task = TaskConfig(True, (TaskCategory(0, "__background__"), TaskCategory(1, "cat")))
    files = write_set(tmp_path, {1: (200, 200)}, [(1, 1, BOX)])
    detector = asking(task, {1: [(0, 0.9, XYXY)]})
    result = evaluate_coco(detector, CocoDataset.read(*files, categories=task.categories))
    assert detector.prompts[0].names == ("cat",) and result.detections[0]["category_id"] == 1


def test_words_are_asked_for_and_names_are_shown(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200)}, [(1, 1, BOX)], [(1, "pothole")]))
    detector = asking(HOLES)
    evaluate_coco(detector, dataset)
    assert detector.prompts[0] == Prompt.from_words([("some ", "holes", " on the road")], ["pothole"])
    evaluate_coco(detector, dataset, ["hole"])  # --names asks for its own
    assert detector.prompts[1] == Prompt.of(["hole"])


def test_words_of_names_that_are_given_take_the_place_of_the_configurations(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200)}, [(1, 1, BOX)], [(1, "pothole"), (2, "cat")]))
    words = (CaptionWords("a ", "crack", ""), CaptionWords("a ", "kitten", ""))
    config = asking(TaskConfig(use_caption_prompt=True, caption_prompt=words)).config
    given = [{"prefix": "some ", "name": "holes", "suffix": " on the road"}, "cat"]
    (chunk,) = prompt_for(dataset, given, config).chunks()
    assert chunk.caption == "some holes on the road. cat" and chunk.class_tokens == ((2,), (7,))
    with pytest.raises(GlipExportError, match="1 names are given, but"):
        prompt_for(dataset, given[:1], config)


def test_suppressed_names_end_the_caption(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200)}, [(1, 1, BOX)]))
    detector = asking(TaskConfig(use_suppress_query=True, suppress_query=("sofa", "tv")))
    evaluate_coco(detector, dataset)
    assert [chunk.caption for chunk in detector.prompts[0].chunks()] == ["cat. sofa. tv"]


def test_words_for_other_categories_are_refused(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200)}, [(1, 1, BOX)], [(1, "pothole"), (2, "puddle")]))
    with pytest.raises(GlipExportError, match=r"words for 1 categories, but .* has 2; give --names"):
        evaluate_coco(asking(HOLES), dataset)


def test_chunks_of_words_say_what_they_ask() -> None:
    words = tuple(CaptionWords("a ", name, "") for name in ("fish", "shark", "crab"))
    task = TaskConfig(use_caption_prompt=True, caption_prompt=words)
    config = asking(task, chunk=2).config
    (note,) = prompt_notes(None, config, None)
    assert "chunks of 2: category 3 with the words of category 1 ('fish')" in note
    assert prompt_notes(None, config, 3) == () and prompt_notes(["a", "b", "c"], config, None) == ()
    assert len(prompt_notes(None, asking(task).config, 1)) == 1 and prompt_notes(None, asking(task).config, None) == ()


def test_more_names_than_the_configuration_has_room_for() -> None:
    """TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM: the original's table of scores has so many columns."""
    detector = Detector(SimpleNamespace(), asking(TaskConfig(), most_names=3).config)  # type: ignore[arg-type]
    assert len(detector.chunks(Prompt.of(["a", "b", "c"]))) == 1
    with pytest.raises(PromptError, match=r"4 names, but .* has room for 3 .*MDETR_STYLE_AGGREGATE_CLASS_NUM"):
        detector.chunks(Prompt.of(["a", "b", "c", "d"]))


def test_eval_coco_of_a_bundle_with_a_task(eval_coco, photos, tiny_bundle: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The whole command: what it finds is what the detector finds for that caption."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((tiny_bundle / MANIFEST).read_text())
    task = TaskConfig(
        *(True, (TaskCategory(31, "rocket"), TaskCategory(4, "cat"))),
        *(True, (CaptionWords("a ", "space ship", " that flies"), CaptionWords("", "kitten", ""))),
    )
    manifest["config"]["task"] = config_to_dict(replace(GlipConfig(), task=task))["task"]
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    words = ["--images", photos[1], "--annotations", photos[0], "--bundle", bundle, "--threads", 1, "--limit", 3]
    code, out, _ = eval_coco(*words, "--output", "out", "--json", "ap.json")
    assert code == 0 and "rocket" in out and "space ship" not in out
    report = json.loads((tmp_path / "ap.json").read_text())
    assert report["names"] == ["rocket", "cat"]
    assert report["problems"]["counts"]["annotation: unknown category"] > 0  # coffee cups
    prompt = Prompt.from_words([("a ", "space ship", " that flies"), ("", "kitten", "")])
    paths = [photos[1] / f"{number}.png" for number in (1, 2, 3)]
    expected = Detector.open(tiny_bundle, threads=1).detect(paths, prompt, batch_size=3)
    found = json.loads((tmp_path / "out" / "onnxruntime" / "detections.json").read_text())
    assert [(each["category_id"], each["score"]) for each in found] == [
        ((31, 4)[label], float(score))
        for each in expected
        for label, score in zip(each.labels, each.scores, strict=True)
    ]
    code, out, _ = eval_coco(*words, "--output", "out", "--chunk", 1)
    assert code == 0 and "chunks of 1: category 2 with the words of category 1 ('space ship')" in out
