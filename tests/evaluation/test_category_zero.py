"""Categories that nothing is an example of: Roboflow's super-class with the id 0, other super-classes, background."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from answers import Answers, write_set

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export.evaluation import CocoDataset, evaluate_coco

BOX = (10, 20, 100, 100)


def read(folder: Path, categories, truth=((1, 1, BOX),)) -> CocoDataset:
    def change(content) -> None:
        content["categories"] = [
            {"id": number, "name": name, **({"supercategory": above} if above else {})}
            for number, name, above in categories
        ]

    return CocoDataset.read(*write_set(folder, {1: (200, 200)}, list(truth), change=change))


@pytest.mark.parametrize(
    ("categories", "names"),
    [
        ([(0, "icons", "none"), (1, "cat", ""), (2, "dog", "")], ("cat", "dog")),  # Roboflow, today's fault
        ([(0, "pets", "none"), (1, "cat", "pets"), (2, "dog", "pets")], ("cat", "dog")),
        ([(1, "cat", "pets"), (2, "dog", "pets"), (7, "pets", "animals"), (8, "animals", "none")], ("cat", "dog")),
        ([(1, "cat", ""), (5, "__background__", ""), (6, "dog", "")], ("cat", "dog")),
        ([(1, "person", "person"), (2, "dog", "animal")], ("person", "dog")),  # COCO's person is its own super-class
        ([(1, "cat", ""), (2, "dog", "")], ("cat", "dog")),  # no dog is annotated, yet it is asked for
        ([(1, "dog", "none"), (2, "none", "")], ("dog",)),
        ([(0, "__background__", "")], ("__background__",)),  # something must be asked for
    ],
)
def test_category_zero_is_not_asked_for(tmp_path: Path, categories, names) -> None:
    dataset = read(tmp_path, categories)
    assert dataset.names == names
    assert bool(dataset.notes) == (len(names) < len(categories)) and len(dataset.notes) <= 1


def test_category_zero_with_annotations_is_asked_for(tmp_path: Path) -> None:
    """A super-class of which there are examples, and ids that count from 0."""
    dataset = read(tmp_path, [(0, "pets", "none"), (1, "cat", "pets")], [(1, 0, BOX), (1, 1, BOX)])
    assert dataset.names == ("pets", "cat") and dataset.notes == ()


def test_category_zero_leaves_the_other_ids_as_they_are(tmp_path: Path) -> None:
    dataset = read(tmp_path, [(0, "icons", "none"), (1, "cat", ""), (9, "dog", "")], [(1, 9, BOX)])
    detector = Answers({1: [(1, 0.9, (10, 20, 109, 119))]})
    found = evaluate_coco(detector, dataset)
    assert detector.prompts[0].names == ("cat", "dog")
    assert [result["category_id"] for result in found.detections] == [9]
    assert found.scores.values["AP"] == pytest.approx(1.0)
    assert [each.id for each in found.scores.classes] == [1, 9]


def test_background_takes_its_annotations_along(tmp_path: Path) -> None:
    dataset = read(tmp_path, [(1, "cat", ""), (5, "__background__", "")], [(1, 1, BOX), (1, 5, BOX)])
    assert [item.category_id for item in dataset.objects] == [1] and dataset.problems == ()


def test_the_first_few_are_named(tmp_path: Path) -> None:
    above = [(number, f"s{number}", "none") for number in range(10, 18)]
    below = [(number - 9, f"n{number}", f"s{number}") for number in range(10, 18)]
    (note,) = read(tmp_path, [*above, *below]).notes
    assert note.endswith("'s10' (id 10), 's11' (id 11), 's12' (id 12), 's13' (id 13), 's14' (id 14) and 3 more")


def test_category_zero_is_said_once(eval_coco, photos, tiny_bundle: Path, tmp_path: Path) -> None:
    content = json.loads(photos[0].read_text(encoding="utf-8"))
    content["categories"].insert(0, {"id": 0, "name": "[b]all[/b]", "supercategory": "none"})
    (tmp_path / "roboflow.json").write_text(json.dumps(content), encoding="utf-8")
    words = ["--images", photos[1], "--annotations", "roboflow.json", "--bundle", tiny_bundle, "--threads", 1]
    code, out, _ = eval_coco(*words, "--limit", 1, "--strict", "--json", "ap.json")
    note = "not asked for, as background or a super-class that no object has: '[b]all[/b]' (id 0)"
    assert code == 0 and out.count(note) == 1 and "3 categories" in out
    report = json.loads((tmp_path / "ap.json").read_text(encoding="utf-8"))
    assert report["notes"] == [note] and "[b]all[/b]" not in report["names"]
    # Names given instead are one for each category that is asked for.
    assert eval_coco(*words, "--limit", 1, "--names", "a cat. a cup. a rocket")[0] == 0
