"""Which pictures run together, whatever cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from answers import write_set

from glip_export.config import ImageConfig
from glip_export.evaluation import CocoDataset
from glip_export.evaluation.pictures import in_groups, read_batches


def batches(dataset: CocoDataset, done: int = 0, batch: int = 3, aspect_groups: bool = False):
    return list(read_batches(in_groups(dataset.images, aspect_groups), done, batch, ImageConfig()))


def sets(folder: Path, count: int, change=None) -> CocoDataset:
    return CocoDataset.read(*write_set(folder, dict.fromkeys(range(1, count + 1), (30, 40)), change=change))


def test_in_order_of_ids(tmp_path: Path) -> None:
    found = batches(sets(tmp_path, 7))
    assert [[image.id for image in each.images] for each in found] == [[1, 2, 3], [4, 5, 6], [7]]
    assert [int(picture[0, 0, 0]) for picture in found[1].pictures] == [4, 5, 6]
    assert found[1].tried == [4, 5, 6] and not found[1].left_out and not found[1].problems


def damage(dataset: CocoDataset) -> None:
    files = {image.id: image.path for image in dataset.images}
    files[2].unlink()
    files[5].write_bytes(files[5].read_bytes()[:40])
    files[7].write_text("no picture")
    files[8].unlink()
    files[8].mkdir()


def test_broken_pictures_take_no_place(tmp_path: Path) -> None:
    dataset = sets(tmp_path, 8)
    damage(dataset)
    found = batches(dataset)
    assert [[image.id for image in each.images] for each in found] == [[1, 3, 4], [6]]
    assert [each.tried for each in found] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert [each.left_out for each in found] == [[2], [5, 7, 8]]
    assert [problem.kind for each in found for problem in each.problems] == [
        "picture: missing",
        "picture: unreadable",
        "picture: unreadable",
        "picture: unreadable",
    ]
    assert all("\n" not in problem.text for each in found for problem in each.problems)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("aspect_groups", [False, True])
def test_going_on_at_any_border_gives_the_same_batches(tmp_path: Path, damaged: bool, aspect_groups: bool) -> None:
    sizes = {number: (30, 40) if number % 3 else (40, 30) for number in range(1, 12)}
    dataset = CocoDataset.read(*write_set(tmp_path, sizes))
    if damaged:
        damage(dataset)
    whole = batches(dataset, aspect_groups=aspect_groups)
    for done in range(len(whole) + 1):
        tried = sum(len(each.tried) for each in whole[:done])
        rest = batches(dataset, tried, aspect_groups=aspect_groups)
        assert [each.tried for each in rest] == [each.tried for each in whole[done:]]


def test_groups_by_shape_as_the_original_makes_them(tmp_path: Path) -> None:
    """GLIP's data loader keeps height / width below 1 apart from 1 and more."""
    sizes = {1: (30, 40), 2: (40, 30), 3: (30, 30), 4: (30, 40), 5: (20, 40), 6: (40, 20)}
    dataset = CocoDataset.read(*write_set(tmp_path, sizes))
    found = batches(dataset, batch=2, aspect_groups=True)
    assert [each.tried for each in found] == [[1, 4], [5], [2, 3], [6]]


def test_sizes_that_are_not_as_annotated_are_told(tmp_path: Path) -> None:
    def change(content) -> None:
        content["images"][1]["height"] = 60

    (found,) = batches(sets(tmp_path, 3, change))
    assert [image.id for image in found.images] == [1, 2, 3] and not found.left_out
    (problem,) = found.problems
    assert problem.kind == "picture: of another size"
    assert problem.text == "picture 2: '2.png' is 40 x 30 pixels, annotated as 40 x 60"


def test_pictures_too_narrow_to_resize(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (30, 40), 2: (2, 6000)}))
    (found,) = batches(dataset)
    assert found.left_out == [2] and "narrow" in found.problems[0].text
