"""Annotation files: what is read, every kind of broken entry, and what is no annotation file at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from answers import write_set

from glip_export.errors import GlipExportError
from glip_export.evaluation import CocoDataset
from glip_export.evaluation.problems import counts

BOX = [10, 20, 30, 40]


def read(folder: Path, change=None, limit: int | None = None, **given) -> CocoDataset:
    given = {"images": {3: (40, 60), 1: (50, 50)}, "objects": [(1, 1, BOX), (3, 1, BOX)], **given}
    return CocoDataset.read(*write_set(folder, change=change, **given), limit)


def test_what_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, categories=((9, "dog"), (2, "cat"), (1, "remote control")))
    assert [image.id for image in found.images] == [1, 3]  # by rising id
    assert found.images[1].path == tmp_path / "images" / "3.png" and found.images[1].size == (40, 60)
    assert found.names == ("dog", "cat", "remote control") and found.category_ids == (9, 2, 1)  # the file's order
    assert found.places.labels == {9: 0, 2: 1, 1: 2}
    assert found.objects[0].box == (10, 20, 30, 40) and found.objects[0].area == 1200 and not found.objects[0].crowd
    assert found.problems == () and len(found.sha256) == 64


def test_the_limit_takes_the_first_by_id(tmp_path: Path) -> None:
    found = read(tmp_path, limit=1)
    assert [image.id for image in found.images] == [1] and [item.image_id for item in found.objects] == [1]


def test_ids_may_be_texts_as_pycocotools_takes_them(tmp_path: Path) -> None:
    """String image ids: numbers come first, then texts in their own order; an annotation's own id may be one too."""

    def change(content) -> None:
        content["images"] += [
            {"id": name, "file_name": "1.png", "height": 50, "width": 50} for name in ("b", "1", "a", "10")
        ]
        content["annotations"].append({"id": "x1", "image_id": "a", "category_id": 1, "bbox": BOX})

    found = read(tmp_path, change)
    assert [image.id for image in found.images] == [1, 3, "1", "10", "a", "b"]
    assert [item.image_id for item in found.objects] == [1, 3, "a"] and found.problems == ()


def test_areas_and_crowds_of_the_file(tmp_path: Path) -> None:
    def change(content) -> None:
        content["annotations"][0].update(area=77.5, iscrowd=1)

    (first, _) = read(tmp_path, change).objects
    assert first.area == 77.5 and first.crowd


ANNOTATIONS = [
    ({"image_id": 99}, "unknown picture", "image_id 99"),
    ({"category_id": 99}, "unknown category", "category_id 99"),
    ({"bbox": [10, 20, 0, 40]}, "degenerate box", "[10, 20, 0, 40]"),
    ({"bbox": [10, 20, 30, -4]}, "degenerate box", "-4"),
    ({"bbox": [10, float("nan"), 30, 40]}, "degenerate box", "nan"),
    ({"bbox": [10, 20, float("inf"), 40]}, "degenerate box", "inf"),
    ({"bbox": [10, 20, 10**400, 40]}, "degenerate box", "bbox"),
    ({"bbox": [10, 20, "30", 40]}, "degenerate box", "'30'"),
    ({"bbox": [10, 20, 30]}, "broken entry", "[10, 20, 30]"),
    ({"bbox": None}, "broken entry", "None"),
    ({"area": float("nan")}, "broken entry", "area is nan"),
    ({"area": -1}, "broken entry", "area is -1"),
    ({"iscrowd": "no"}, "broken entry", "iscrowd"),
    ({"iscrowd": [0]}, "broken entry", "iscrowd"),
    ({"image_id": "1"}, "unknown picture", "image_id '1'"),
    ({"image_id": 1.5}, "broken entry", "image_id is 1.5"),
    ({"image_id": ""}, "broken entry", "image_id is ''"),
    ({"id": True}, "broken entry", "id is True"),
    ({"id": 2}, "id used twice", "id 2"),
]


@pytest.mark.parametrize(("fields", "kind", "words"), ANNOTATIONS)
def test_broken_annotations_are_left_out_and_told(tmp_path: Path, fields, kind: str, words: str) -> None:
    def change(content) -> None:
        content["annotations"].append({"id": 8, "image_id": 1, "category_id": 1, "bbox": BOX, **fields})

    found = read(tmp_path, change)
    assert len(found.objects) == 2
    (problem,) = found.problems
    assert problem.kind == f"annotation: {kind}"
    assert problem.text.startswith("annotation entry 3: ") and words in problem.text and "\n" not in problem.text


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox"])
def test_missing_keys(tmp_path: Path, key: str) -> None:
    found = read(tmp_path, lambda content: content["annotations"][0].pop(key))
    assert len(found.objects) == 1 and counts(found.problems) == {"annotation: broken entry": 1}
    assert key in found.problems[0].text


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"file_name": "../secret.png"}, "path outside the folder", "'../secret.png'"),
        ({"file_name": "a/../../secret.png"}, "path outside the folder", "secret.png"),
        ({"file_name": "/etc/passwd"}, "path outside the folder", "passwd"),
        ({"file_name": "..\\secret.png"}, "path outside the folder", "secret.png"),
        ({"file_name": "C:\\secret.png"}, "path outside the folder", "secret.png"),
        ({"file_name": "\\\\server\\secret.png"}, "path outside the folder", "secret.png"),
        ({"file_name": "a\0.png"}, "path outside the folder", "file_name"),
        ({"file_name": ""}, "broken entry", "file_name"),
        ({"file_name": 5}, "broken entry", "file_name is 5"),
        ({"id": 1.5}, "broken entry", "id is 1.5"),
        ({"id": 1}, "id used twice", "id 1"),
        ({"height": 0}, "broken entry", "height 0"),
        ({"width": "60"}, "broken entry", "width is '60'"),
    ],
)
def test_broken_picture_entries(tmp_path: Path, fields, kind: str, words: str) -> None:
    def change(content) -> None:
        content["images"].append({"id": 7, "file_name": "1.png", "height": 50, "width": 50, **fields})
        content["annotations"].append({"id": 8, "image_id": 7, "category_id": 1, "bbox": BOX})

    found = read(tmp_path, change)
    assert [image.id for image in found.images] == [1, 3] and len(found.objects) == 2
    assert found.problems[0].kind == f"picture: {kind}" and words in found.problems[0].text
    # What lies on a picture that is left out goes with it, as long as the entry names its id.
    assert len(found.problems) == (1 if "id" not in fields else 2)


def test_sizes_may_be_missing(tmp_path: Path) -> None:
    found = read(tmp_path, lambda content: [content["images"][0].pop(key) for key in ("height", "width")])
    assert found.images[1].size is None and found.problems == ()


def test_broken_categories(tmp_path: Path) -> None:
    def change(content) -> None:
        content["categories"] += [{"id": 1, "name": "dog"}, {"id": 2, "name": " "}, {"id": 3}, "dog"]

    found = read(tmp_path, change)
    assert found.names == ("cat",)
    assert counts(found.problems) == {"category: id used twice": 1, "category: broken entry": 3}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xd8\xff\xe0", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no object"),
        (b"{}", '"images"'),
        (b'{"images": [], "annotations": {}, "categories": []}', '"annotations"'),
        (b'{"images": [], "annotations": [], "categories": []}', "no category"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}', "no picture"),
        (b'{"images": [5], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}', "picture entry 1: 5 is"),
    ],
)
def test_no_annotation_file_at_all(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(GlipExportError) as error:
        CocoDataset.read(path, tmp_path)
    assert words in str(error.value) and "annotations.json" in str(error.value) and "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    annotations, images = write_set(tmp_path, {1: (50, 50)})
    with pytest.raises(GlipExportError, match=r"none\.json: No such file"):
        CocoDataset.read(tmp_path / "none.json", images)
    with pytest.raises(GlipExportError, match="cannot read"):
        CocoDataset.read(tmp_path, images)
    with pytest.raises(GlipExportError, match="does not exist"):
        CocoDataset.read(annotations, tmp_path / "none")
    with pytest.raises(GlipExportError, match="no folder"):
        CocoDataset.read(annotations, annotations)


def test_the_digest_tells_changed_pictures(tmp_path: Path) -> None:
    found = read(tmp_path)
    before = found.pictures_digest()
    assert found.pictures_digest() == before
    os.utime(found.images[0].path, (1, 1))
    touched = found.pictures_digest()
    found.images[0].path.unlink()
    assert len({before, touched, found.pictures_digest()}) == 3


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    content = json.loads(write_set(tmp_path, {1: (50, 50)})[0].read_text())
    content["images"][0]["file_name"] = "\ud800.png"
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    assert len(CocoDataset.read(tmp_path / "annotations.json", tmp_path).pictures_digest()) == 64
