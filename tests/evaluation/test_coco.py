"""Evaluation with a detector whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from answers import Answers, write_set

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export.errors import BackendError, GlipExportError, PromptError
from glip_export.evaluation import CocoDataset, Journal, evaluate_coco

BOX = (10, 20, 100, 100)
XYXY = (10, 20, 109, 119)  # the same pixels: the original takes 1 off and gives it back
SIZES = dict.fromkeys(range(1, 9), (200, 200))


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    return CocoDataset.read(*write_set(tmp_path, SIZES, [(image, 1, BOX) for image in SIZES]))


def right(ids) -> Answers:
    return Answers({image: [(0, 0.5 + image / 100, XYXY)] for image in ids})


def test_right_answers(dataset: CocoDataset) -> None:
    detector = right(SIZES)
    done: list[int] = []
    found = evaluate_coco(detector, dataset, progress=done.append)
    assert found.scores.values["AP"] == pytest.approx(1.0)
    assert detector.batches == [[1, 2, 3], [4, 5, 6], [7, 8]] and done == [0, 3, 6, 8]
    assert detector.prompts[0].names == ("cat",) and detector.chunks == [None] * 3
    assert found.pictures == 8 and found.problems == () and found.seconds > 0
    assert found.detections[0] == {
        "image_id": 1,
        "category_id": 1,
        "bbox": [10.0, 20.0, 100.0, 100.0],
        "score": float(np.float32(0.51)),
    }


def test_labels_follow_the_files_order_of_categories(tmp_path: Path) -> None:
    """As in the original, whatever the ids: 90 comes first."""
    categories = ((90, "dog"), (3, "remote control"), (17, "cat"))
    truth = [(1, 90, BOX), (1, 3, (0, 0, 20, 20))]
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200)}, truth, categories))
    detector = Answers({1: [(0, 0.9, XYXY), (1, 0.8, (0, 0, 19, 19))]})
    found = evaluate_coco(detector, dataset)
    assert detector.prompts[0].names == ("dog", "remote control", "cat")
    assert [result["category_id"] for result in found.detections] == [90, 3]
    assert found.scores.values["AP"] == pytest.approx(1.0)
    named = evaluate_coco(detector, dataset, ["a dog", "a remote", "a cat"])  # other names, in the same order
    assert detector.prompts[1].names == ("a dog", "a remote", "a cat") and named.detections == found.detections


def test_other_names_batch_and_chunk(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, SIZES, [], ((2, "cat"), (5, "dog"))))
    detector = right([])
    evaluate_coco(detector, dataset, ["a small cat", "a dog"], batch=5, chunk=1)
    assert detector.prompts[0].names == ("a small cat", "a dog") and detector.chunks == [1, 1]
    assert [len(batch) for batch in detector.batches] == [5, 3]
    with pytest.raises(GlipExportError, match=r"1 names are given, but .*annotations\.json has 2 categories"):
        evaluate_coco(detector, dataset, ["cat"])
    with pytest.raises(PromptError, match="empty"):
        evaluate_coco(detector, dataset, ["cat", " . "])


def test_boxes_follow_the_annotated_size(tmp_path: Path) -> None:
    """A data set whose pictures were made smaller: the original resizes its boxes to the annotated width and height."""

    def change(content) -> None:
        content["images"][0].update(height=400, width=600)

    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200)}, [(1, 1, (30, 40, 301, 201))], change=change))
    found = evaluate_coco(Answers({1: [(0, 0.9, (10, 20, 110, 120))]}), dataset)
    assert found.detections[0]["bbox"] == [30.0, 40.0, 301.0, 201.0]
    assert found.scores.values["AP"] == pytest.approx(1.0)
    assert [problem.kind for problem in found.problems] == ["picture: of another size"]


def test_broken_pictures_are_left_out_with_their_objects(dataset: CocoDataset) -> None:
    dataset.images[1].path.unlink()
    dataset.images[4].path.write_text("no picture")
    detector = right(SIZES)
    found = evaluate_coco(detector, dataset)
    assert detector.batches == [[1, 3, 4], [6, 7, 8]]
    assert found.pictures == 6 and found.scores.values["AP"] == pytest.approx(1.0)
    assert [problem.text.split(":")[0] for problem in found.problems] == ["picture 2", "picture 5"]
    with pytest.raises(GlipExportError, match=r"annotations\.json: picture 2: .* does not exist"):
        evaluate_coco(detector, dataset, strict=True)


def test_strict_names_the_first_broken_annotation(tmp_path: Path) -> None:
    truth = [(1, 1, BOX), (1, 1, (0, 0, 0, 5)), (1, 7, BOX)]
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200)}, truth))
    assert evaluate_coco(right([1]), dataset).scores.values["AP"] == pytest.approx(1.0)
    with pytest.raises(GlipExportError, match=r"annotations\.json: annotation entry 2: bbox"):
        evaluate_coco(right([1]), dataset, strict=True)


def test_no_picture_can_be_read(dataset: CocoDataset) -> None:
    for image in dataset.images:
        image.path.unlink()
    with pytest.raises(GlipExportError, match=r"none of the 8 pictures can be read; picture 1: .* does not exist"):
        evaluate_coco(right(SIZES), dataset)


def test_values_that_are_not_finite(dataset: CocoDataset) -> None:
    with pytest.raises(BackendError, match="answers gave NaN or infinite values on picture 2"):
        evaluate_coco(Answers({2: [(0, 0.9, (0, 0, float("nan"), 5))]}), dataset)


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_what_a_journal_holds_is_not_computed_again(dataset: CocoDataset, tmp_path: Path, stop: int) -> None:
    dataset.images[2].path.unlink()
    dataset.images[7].path.unlink()
    whole = evaluate_coco(right(SIZES), dataset)

    class Stopping(Answers):
        def detect(self, pictures, prompt, chunk=None):
            if len(self.batches) == stop:
                raise InterruptedError
            return super().detect(pictures, prompt, chunk)

    path = tmp_path / "progress.jsonl"
    first, second = Stopping(right(SIZES).found), right(SIZES)
    with Journal.open(path, {}) as journal:
        if stop < 2:
            with pytest.raises(InterruptedError):
                evaluate_coco(first, dataset, journal=journal)
        else:
            evaluate_coco(first, dataset, journal=journal)
    done: list[int] = []
    with Journal.open(path, {}) as journal:
        found = evaluate_coco(second, dataset, journal=journal, progress=done.append)
    assert first.batches + second.batches == [[1, 2, 4], [5, 6, 7]]
    assert found.detections == whole.detections and found.problems == whole.problems
    assert found.scores == whole.scores and found.pictures == whole.pictures == 6
    assert done[0] == [0, 4, 8][stop] and done[-1] == 8


def test_strict_looks_at_what_the_journal_holds_too(dataset: CocoDataset, tmp_path: Path) -> None:
    dataset.images[1].path.unlink()
    with Journal.open(tmp_path / "progress.jsonl", {}) as journal:
        evaluate_coco(right(SIZES), dataset, journal=journal)
        with pytest.raises(GlipExportError, match="picture 2"):
            evaluate_coco(right(SIZES), dataset, journal=journal, strict=True)


def test_a_whole_journal_opens_no_detector(dataset: CocoDataset, tmp_path: Path) -> None:
    def never() -> Answers:
        raise AssertionError("opened")

    with Journal.open(tmp_path / "progress.jsonl", {}) as journal:
        whole = evaluate_coco(lambda: right(SIZES), dataset, journal=journal)
        assert evaluate_coco(never, dataset, journal=journal).scores == whole.scores


def test_a_journal_of_other_pictures(dataset: CocoDataset, tmp_path: Path) -> None:
    with Journal.open(tmp_path / "progress.jsonl", {}) as journal:
        evaluate_coco(right(SIZES), dataset, journal=journal)
        (other, folder) = write_set(tmp_path / "other", {5: (200, 200)})
        with pytest.raises(GlipExportError, match="other pictures"):
            evaluate_coco(right(SIZES), CocoDataset.read(other, folder), journal=journal)


def test_a_journal_that_someone_edited(dataset: CocoDataset, tmp_path: Path) -> None:
    with Journal.open(tmp_path / "progress.jsonl", {}) as journal:
        journal.append({"pictures": [1, 2, 3]})
        with pytest.raises(GlipExportError, match="damaged"):
            evaluate_coco(right(SIZES), dataset, journal=journal)


def test_a_record_is_json(dataset: CocoDataset, tmp_path: Path) -> None:
    with Journal.open(tmp_path / "progress.jsonl", {}) as journal:
        evaluate_coco(right(SIZES), dataset, journal=journal)
    records = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()[1:]]
    assert [record["pictures"] for record in records] == [[1, 2, 3], [4, 5, 6], [7, 8]]
