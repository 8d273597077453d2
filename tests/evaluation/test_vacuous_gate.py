"""A gate that compared nothing never passes; where no annotation counts, nothing is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from answers import Answers, write_set

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export.errors import GlipExportError
from glip_export.evaluation import CocoDataset, evaluate_coco
from glip_export.evaluation.report import CocoReport

BOX = (10, 20, 100, 100)
RIGHT = (0, 0.9, (10, 20, 109, 119))


def changed(photos: tuple[Path, Path], folder: Path, change) -> Path:
    content = json.loads(photos[0].read_text(encoding="utf-8"))
    for annotation in content["annotations"]:
        change(annotation)
    (folder / "truth.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "truth.json"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda annotation: annotation.pop("id"), "10 left out, annotation entry 1: it has no id"),
        (lambda annotation: annotation.update(category_id=99), "category_id 99 is no category's"),
        (lambda annotation: annotation.update(image_id="x"), "image_id 'x' is no picture's"),
        (lambda annotation: annotation.update(bbox=[1, 2, 0, 4]), "bbox is [1, 2, 0, 4]"),
        (lambda annotation: annotation.update(iscrowd=1), "all are of crowds"),
    ],
)
def test_vacuous_gate_ends_before_the_run(
    eval_coco, photos, tiny_bundle: Path, tmp_path: Path, change, expected: str
) -> None:
    truth = changed(photos, tmp_path, change)
    words = ["--images", photos[1], "--annotations", truth, "--bundle", tiny_bundle, "--backend", "torch"]
    for more in ([], ["--backend", "onnxruntime", "--max-ap-difference", 0]):
        code, out, err = eval_coco(*words, *more, "--json", "ap.json")
        assert code == 2 and len(err.splitlines()) == 1 and "PASSED" not in out
        assert "truth.json has no annotation that counts on its 10 picture(s)" in err and expected in err
    assert [path.name for path in tmp_path.iterdir()] == ["truth.json"]


def test_vacuous_gate_for_the_pictures_within_the_limit(eval_coco, photos, tiny_bundle: Path, tmp_path: Path) -> None:
    truth = changed(photos, tmp_path, lambda annotation: annotation.update(image_id=9))
    words = ["--images", photos[1], "--annotations", truth, "--bundle", tiny_bundle, "--limit", 2]
    code, _, err = eval_coco(*words)
    assert code == 2 and "no annotation that counts on its 2 picture(s), so there is nothing to measure\n" in err


def test_an_empty_list_of_annotations(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200)}))
    with pytest.raises(GlipExportError, match=r"annotations\.json has no annotation that counts on its 1 picture"):
        dataset.check_annotated()


def report(dataset: CocoDataset, answers: dict[str, list], limit: float | None = 1.0) -> CocoReport:
    results = {name: evaluate_coco(Answers({1: given, 2: given}), dataset) for name, given in answers.items()}
    return CocoReport(dataset, results, {}, limit)


def test_vacuous_gate_where_every_annotated_picture_is_broken(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200), 2: (200, 200)}, [(1, 1, BOX)]))
    dataset.images[0].path.unlink()
    found = report(dataset, {"torch": [RIGHT], "onnxruntime": [RIGHT]})
    assert not found.passed and found.to_dict()["passed"] is False
    assert "torch has no AP, for no annotated object is on a picture" in found.to_dict()["nothing_compared"]
    assert found.too_far({"onnxruntime": 1.0}) == ["onnxruntime"]


def test_vacuous_gate_where_nothing_was_detected(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200), 2: (200, 200)}, [(1, 1, BOX)]))
    assert not report(dataset, {"torch": [], "onnxruntime": []}).passed
    assert report(dataset, {"torch": [], "onnxruntime": []}, None).passed  # no gate was asked for
    assert report(dataset, {"torch": [RIGHT], "onnxruntime": []}, 1.0).passed
    assert not report(dataset, {"torch": [RIGHT], "onnxruntime": []}, 0.5).passed
    assert report(dataset, {"torch": [RIGHT], "onnxruntime": [RIGHT]}, 0.0).incomparable == ""


def test_vacuous_gate_of_one_backend(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200), 2: (200, 200)}, [(1, 1, BOX)]))
    assert not report(dataset, {"torch": [RIGHT]}).passed


def test_vacuous_gate_is_exit_code_1_on_the_command_line(eval_coco, photos, tiny_bundle: Path, tmp_path: Path) -> None:
    """The one annotated picture cannot be read, which shows only in the run."""
    content = json.loads(photos[0].read_text(encoding="utf-8"))
    content["images"], content["annotations"] = content["images"][:2], content["annotations"][:1]
    content["images"][0]["file_name"] = "none.png"
    (tmp_path / "truth.json").write_text(json.dumps(content), encoding="utf-8")
    words = ["--images", photos[1], "--annotations", "truth.json", "--bundle", tiny_bundle, "--threads", 1]
    several = ["--backend", "torch", "--backend", "onnxruntime", "--max-ap-difference", 1]
    code, out, _ = eval_coco(*words, *several)
    assert code == 1 and "PASSED" not in out
    assert "FAILED: the APs cannot be compared: torch has no AP" in out
