"""LVIS's annotation files: where pictures are, what is broken, in the same words as COCO's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glip_export.errors import GlipExportError
from glip_export.evaluation.lvis.dataset import LvisDataset

CATEGORY = {"id": 7, "name": "alarm_clock", "frequency": "f"}


def read(folder: Path, *images: dict[str, Any], **lists: list[Any]) -> LvisDataset:
    path = folder / "lvis.json"
    content = {"images": images, "annotations": [], "categories": [CATEGORY], **lists}
    path.write_text(json.dumps(content))
    return LvisDataset.read(path, folder)


def picture(own: int, **fields: Any) -> dict[str, Any]:
    lists: dict[str, Any] = {"neg_category_ids": [7], "not_exhaustive_category_ids": []}
    return {"id": own, "height": 4, "width": 6, "coco_url": f"http://h/x/val2017/{own:04}.jpg", **lists, **fields}


@pytest.mark.parametrize("place", ["val2017/0003.jpg", "0003.jpg"])
def test_a_pictures_file_is_found_with_and_without_its_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    (image,) = read(tmp_path, picture(3)).images
    assert (image.file_name, image.path, image.size) == (place, tmp_path / place, (4, 6))
    assert image.neg_category_ids == {7}


def test_a_file_name_comes_before_the_address(tmp_path: Path) -> None:
    for name in ("a.jpg", "0003.jpg"):
        (tmp_path / name).touch()
    assert read(tmp_path, picture(3, file_name="val2017/a.jpg")).images[0].file_name == "a.jpg"
    assert read(tmp_path, picture(3, file_name="b.jpg")).images[0].file_name == "0003.jpg"


def test_a_missing_picture_is_named_by_its_likeliest_place(tmp_path: Path) -> None:
    assert read(tmp_path, picture(3)).images[0].file_name == "val2017/0003.jpg"


def test_categories_have_their_frequency(tmp_path: Path) -> None:
    (category,) = read(tmp_path, picture(3)).categories
    assert (category.name, category.frequency) == ("alarm_clock", "f")


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"coco_url": "http://h/../0004.jpg"}, "picture: path outside the folder", "'../0004.jpg' leaves"),
        ({"file_name": "../4.jpg"}, "picture: path outside the folder", "'../4.jpg' leaves"),
        ({"coco_url": "http://[h/4.jpg"}, "picture: broken entry", "not an address"),
        ({"coco_url": None}, "picture: broken entry", "neither names a file"),
        ({"neg_category_ids": None}, "picture: broken entry", "neg_category_ids is None, not a list of category ids"),
        ({"not_exhaustive_category_ids": ["7"]}, "picture: broken entry", "not_exhaustive_category_ids is ['7']"),
        ({"height": 0}, "picture: broken entry", "no picture's"),
        ({"id": 3}, "picture: id used twice", "id 3 is an earlier one's"),
    ],
)
def test_broken_pictures_are_left_out_and_told(tmp_path: Path, fields: dict[str, Any], kind: str, words: str) -> None:
    dataset = read(tmp_path, picture(3), picture(4, **fields))
    assert [image.id for image in dataset.images] == [3]
    (problem,) = dataset.problems
    assert problem.kind == kind
    assert words in problem.text
    assert problem.text.startswith("picture entry 2: ")


def test_labels_follow_the_ids_as_in_the_original(tmp_path: Path) -> None:
    """Its reader of LVIS sorts the categories, its reader of COCO does not."""
    other = {"id": 1, "name": "zebra", "frequency": "r"}
    assert read(tmp_path, picture(3), categories=[CATEGORY, other]).category_ids == (1, CATEGORY["id"])


def test_a_category_without_a_frequency_is_left_out_and_told(tmp_path: Path) -> None:
    dataset = read(tmp_path, picture(3), categories=[CATEGORY, {"id": 8, "name": "b"}])
    (problem,) = dataset.problems
    assert problem.text == "category entry 2: frequency is None, not r, c or f"


def test_a_coco_file_is_no_lvis_file(tmp_path: Path) -> None:
    coco = {"id": 3, "height": 4, "width": 6, "file_name": "a.jpg"}
    with pytest.raises(GlipExportError, match=r"no picture to evaluate: .*not a list of category ids as LVIS's"):
        read(tmp_path, coco)


def test_crowds_count_and_what_has_no_area_does_not(tmp_path: Path) -> None:
    crowd = {"id": 1, "image_id": 3, "category_id": 7, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 1}
    read(tmp_path, picture(3), annotations=[crowd]).check_annotated()
    with pytest.raises(GlipExportError, match="nothing to measure; all are without area"):
        read(tmp_path, picture(3), annotations=[{**crowd, "area": 0}]).check_annotated()


def test_every_category_of_the_file_is_asked_for(tmp_path: Path) -> None:
    """The id 0, a super-class by its looks and __background__ too."""
    categories = [
        {"id": 0, "name": "clocks", "frequency": "r"},
        {"id": 2, "name": "__background__", "frequency": "c"},
        {**CATEGORY, "supercategory": "clocks"},
    ]
    box = {"id": 1, "image_id": 3, "category_id": 7, "bbox": [0, 0, 2, 2], "area": 4}
    dataset = read(tmp_path, picture(3), annotations=[box], categories=categories)
    assert dataset.category_ids == (0, 2, 7) and dataset.asked == dataset.categories and dataset.notes == ()
