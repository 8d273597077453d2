"""COCO files: what pycocotools reads of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from labelled_runs import CARRIED, HEIGHT, NAMES, WIDTH, answer, conversion, files_below, item, random_answer, write_run

from glip_export.errors import GlipExportError
from glip_export.labelling.formats.coco import write_coco
from glip_export.labelling.items import Answer, Item, Where
from glip_export.labelling.split import split_of
from glip_export.results.detections import Detections


def test_pycocotools_reads_the_same_boxes(tmp_path: Path) -> None:
    coco_api = pytest.importorskip("pycocotools.coco")
    answers = {f"a/{number}.jpg": random_answer(number, 6) for number in range(10)}
    write_run(tmp_path, [(item(source), given) for source, given in answers.items()])
    (path,) = write_coco(conversion(tmp_path, 0.3))
    coco = coco_api.COCO(str(path))
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == list(NAMES)
    images = coco.loadImgs(sorted(coco.getImgIds()))
    assert [each["file_name"] for each in images] == list(answers)
    assert sum(len(given.scores) for given in answers.values()) > len(coco.getAnnIds())
    for image, given in zip(images, answers.values(), strict=True):
        found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        kept = given.scores >= 0.3
        assert [NAMES[label] for label in given.labels[kept]] == [
            coco.cats[each["category_id"]]["name"] for each in found
        ]
        x, y, w, h = np.array([each["bbox"] for each in found]).T
        np.testing.assert_allclose(np.stack([x, y, x + w - 1, y + h - 1], axis=1), given.boxes[kept], atol=0.0021)
        np.testing.assert_allclose([each["score"] for each in found], given.scores[kept], atol=1e-6)


def test_pycocotools_scores_the_file_against_itself(tmp_path: Path) -> None:
    coco_api, scoring = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    write_run(tmp_path, [(item(f"{number}.jpg"), random_answer(number, 6)) for number in range(6)])
    coco = coco_api.COCO(str(write_coco(conversion(tmp_path, 0))[0]))
    found = coco.loadRes(coco.loadAnns(coco.getAnnIds()))
    evaluator = scoring.COCOeval(coco, found, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    assert evaluator.stats[0] == pytest.approx(1)


def test_boxes_are_written_as_results_are(tmp_path: Path) -> None:
    given = random_answer(1, 5)
    write_run(tmp_path, [(item("a.jpg"), given)])
    found = _read(write_coco(conversion(tmp_path, 0))[0])["annotations"]
    same = Detections(given.boxes, given.scores, given.labels.astype(np.int64), NAMES, (HEIGHT, WIDTH))
    for mine, theirs in zip(found, same.to_coco(1, [1, 2, 3]), strict=True):
        np.testing.assert_allclose(mine["bbox"], theirs["bbox"], atol=0.001)
        assert (mine["image_id"], mine["category_id"]) == (1, theirs["category_id"])
        assert mine["area"] == pytest.approx(mine["bbox"][2] * mine["bbox"][3], rel=1e-3) and mine["iscrowd"] == 0


def test_pictures_with_errors_are_left_out_and_empty_ones_are_not(tmp_path: Path) -> None:
    write_run(tmp_path, [(item("a.jpg"), Answer.failed("no")), (item("b.jpg"), answer()), (item("c.jpg"), ONE)])
    document = _read(write_coco(conversion(tmp_path))[0])
    assert [(each["id"], each["file_name"]) for each in document["images"]] == [(2, "b.jpg"), (3, "c.jpg")]
    assert [(each["id"], each["image_id"]) for each in document["annotations"]] == [(1, 3)]


def test_a_split_shares_ids_and_no_picture(tmp_path: Path) -> None:
    sources = [f"{number}.jpg" for number in range(30)]
    write_run(tmp_path, [(item(source), ONE) for source in sources])
    train, val = map(_read, write_coco(conversion(tmp_path, val=0.4)))
    for part, split in ((train, "train"), (val, "val")):
        assert part["images"] and len(part["annotations"]) == len(part["images"])
        assert all(split_of(each["file_name"], 0.4) == split for each in part["images"])
        assert {each["image_id"] for each in part["annotations"]} == {each["id"] for each in part["images"]}
    together = sorted([*train["images"], *val["images"]], key=lambda each: int(each["id"]))
    assert [each["file_name"] for each in together] == sources
    assert len({each["id"] for each in (*train["annotations"], *val["annotations"])}) == len(sources)


def test_other_columns_go_along_where_json_can_say_them(tmp_path: Path) -> None:
    pictures = [(item("a.jpg", None, "two cats", 9, b"\0"), ONE), (item("b.jpg", None, None, 9, None), ONE)]
    write_run(tmp_path, pictures, carried=CARRIED)  # its own width is not the picture's
    first, second = _read(write_coco(conversion(tmp_path))[0])["images"]
    own = {"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}
    assert first == own | {"caption": "two cats", "input_width": 9}
    assert second["caption"] is None


def test_columns_called_as_an_images_own_keys_go_along(tmp_path: Path) -> None:
    names = ("id", "file_name", "path", "input_id")
    given = item("a.jpg", None, "x1", "mine.jpg", "p", 7)
    write_run(
        tmp_path,
        [(given, ONE)],
        carried=pa.schema([(name, pa.string()) for name in names[:3]] + [("input_id", pa.int8())]),
    )
    (image,) = _read(write_coco(conversion(tmp_path))[0])["images"]
    assert (image["id"], image["file_name"]) == (1, "a.jpg") and "path" not in image
    carried = {"input_input_id": "x1", "input_file_name": "mine.jpg", "input_path": "p", "input_id": 7}
    assert {name: value for name, value in image.items() if name.startswith("input_")} == carried


def test_a_picture_that_is_called_otherwise_than_its_file_has_its_path(tmp_path: Path) -> None:
    wheres = {
        "cats/a.jpg": Where("/data/cats/a.jpg"),
        "cats/a.jpg#2": Where("/data/cats/a.jpg"),
        r"caf\xe9.jpg": Where("file:///data/caf%E9.jpg"),
        "b.jpg": Where("s3://bucket/in/b.jpg?region=eu-west-1"),
        "s3://bucket/c.jpg": Where("s3://bucket/c.jpg"),
        "0.tar/d.jpg": Where("/data/0.tar", 512, 9),
        "rows.parquet#0": Where("/data/rows.parquet", column="image", row=0),
    }
    write_run(tmp_path, [(Item(source, where), ONE) for source, where in wheres.items()])
    images = _read(write_coco(conversion(tmp_path))[0])["images"]
    paths = {image["file_name"]: image["path"] for image in images if "path" in image}
    assert paths == {source: wheres[source].path for source in list(wheres)[1:3]}


def test_the_file_says_what_it_was_made_with(tmp_path: Path) -> None:
    write_run(tmp_path, [(item("a.jpg"), ONE)])
    info = _read(write_coco(conversion(tmp_path, 0.25, about={"prompt": "cat. dog"}))[0])["info"]
    assert info["prompt"] == "cat. dog" and info["thresholds"] == dict.fromkeys(NAMES, 0.25)


def test_nothing_is_left_of_an_earlier_one(tmp_path: Path) -> None:
    write_run(tmp_path, [(item("a.jpg"), ONE)])
    (tmp_path / "annotations.json").write_text("mine")
    write_coco(conversion(tmp_path))
    write_coco(conversion(tmp_path, val=0.5))
    assert files_below(tmp_path / "coco") == ["_made.json", "instances_train.json", "instances_val.json"]
    assert (tmp_path / "annotations.json").read_text() == "mine"


@pytest.mark.parametrize("file", ["notes.txt", "annotations.json"])
def test_what_is_of_others_is_never_replaced(tmp_path: Path, file: str) -> None:
    write_run(tmp_path, [(item("a.jpg"), ONE)])
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / file).write_text("mine")
    with pytest.raises(GlipExportError, match="was not made by `glip-export label`"):
        write_coco(conversion(tmp_path))
    assert files_below(tmp_path / "coco") == [file] and (tmp_path / "coco" / file).read_text() == "mine"


@pytest.mark.parametrize("file", ["notes.txt", "annotations.json"])
def test_what_was_added_or_corrected_by_hand_is_not_lost(tmp_path: Path, file: str) -> None:
    write_run(tmp_path, [(item("a.jpg"), ONE)])
    write_coco(conversion(tmp_path))
    mine = tmp_path / "coco" / file
    mine.write_text("mine")

    os.utime(mine, ns=(2**62, 2**62))  # later than the clock's next tick
    with pytest.raises(GlipExportError, match=f"since {file} in it was changed: move it elsewhere"):
        write_coco(conversion(tmp_path))
    assert mine.read_text() == "mine"
    os.utime(mine, ns=(0, 0))
    if file == "notes.txt":
        with pytest.raises(GlipExportError, match="holds 2 files and was made with 1"):
            write_coco(conversion(tmp_path))


def test_a_run_without_pictures_gives_an_empty_document(tmp_path: Path) -> None:
    document = _read(write_coco(conversion(tmp_path))[0])
    assert document["images"] == document["annotations"] == []


ONE = answer((1, 0.9, (10, 20, 30, 40)))


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
