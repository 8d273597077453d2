"""YOLO folders: labels that come back as the same boxes, pictures where Ultralytics looks for them."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from labelled_runs import HEIGHT, NAMES, WIDTH, answer, conversion, files_below, item, random_answer, write_run
from PIL import Image

from glip_export.errors import GlipExportError, GlipExportWarning
from glip_export.image import load_image
from glip_export.labelling.formats.yolo import write_yolo
from glip_export.labelling.items import Answer, Item, Where
from glip_export.labelling.split import split_of

ONE = answer((1, 0.9, (10, 20, 30, 40)))


def test_boxes_come_back(tmp_path: Path) -> None:
    answers = [random_answer(seed, 20) for seed in range(5)]
    write_run(tmp_path, [(item(f"{n}.jpg"), given) for n, given in enumerate(answers)])
    write_yolo(conversion(tmp_path, 0.3, pictures="none"))
    for number, given in enumerate(answers):
        rows = np.loadtxt(tmp_path / "yolo/labels/train" / f"{number}.txt", np.float32, ndmin=2)  # as Ultralytics
        kept = given.scores >= 0.3
        assert rows[:, 0].tolist() == given.labels[kept].tolist()
        assert rows[:, 1:].min() >= 0 and rows[:, 1:].max() <= 1
        centre, half = rows[:, 1:3] * [WIDTH, HEIGHT], rows[:, 3:] * [WIDTH, HEIGHT] / 2
        np.testing.assert_allclose(np.hstack([centre - half, centre + half]), given.boxes[kept], atol=0.01)


def test_boxes_are_clipped_to_the_picture(tmp_path: Path) -> None:
    write_run(tmp_path, [(item("a.jpg"), answer((0, 0.9, (-64, -48, 320, 240)), (2, 0.8, (576, 432, 700, 500))))])
    write_yolo(conversion(tmp_path, pictures="none"))
    assert (tmp_path / "yolo/labels/train/a.txt").read_text().splitlines() == [
        "0 0.25000000 0.25000000 0.50000000 0.50000000",
        "2 0.95000000 0.95000000 0.10000000 0.10000000",
    ]


def test_data_yaml_names_what_is_there(tmp_path: Path) -> None:
    pictures = [(item(f"{number}.jpg", _picture(tmp_path / "in" / f"{number}.jpg")), ONE) for number in range(12)]
    write_run(tmp_path / "out", pictures)
    for val in (0.0, 0.4):
        data_file, _ = write_yolo(conversion(tmp_path / "out", val=val))
        data = yaml.safe_load(data_file.read_text())
        assert data["names"] == dict(enumerate(NAMES)) and data["nc"] == 3 and "path" not in data
        assert data["train"] == "images/train" and data["val"] == ("images/val" if val else "images/train")
        for split in ("train", "val"):
            expected = {each.source for each, _ in pictures if (split_of(each.source, val) == split)}
            folder = data_file.parent / "images" / split
            assert {path.name for path in folder.glob("*")} == expected
            labels = data_file.parent / "labels" / split
            assert {path.stem for path in labels.glob("*")} == {Path(source).stem for source in expected}


def test_a_picture_without_boxes_is_a_background_and_one_with_an_error_is_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, [(item("a.jpg"), answer()), (item("b.jpg"), Answer.failed("no")), (item("c.jpg"), ONE)])
    write_yolo(conversion(tmp_path, 0.95, pictures="none"))
    labels = tmp_path / "yolo/labels/train"
    assert {path.name: path.read_text() for path in labels.glob("*")} == {"a.txt": "", "c.txt": ""}


@pytest.mark.parametrize("how", ["link", "copy"])
def test_pictures_are_linked_or_copied_and_never_written_to(tmp_path: Path, how: str) -> None:
    source = _picture(tmp_path / "in" / "a.JPG")
    before = source.read_bytes(), source.stat().st_mtime_ns
    write_run(tmp_path / "out", [(item("a.JPG", source), ONE)])
    for _ in range(2):
        write_yolo(conversion(tmp_path / "out", pictures=how))
        placed = tmp_path / "out/yolo/images/train/a.JPG"
        assert placed.is_symlink() == (how == "link") and placed.read_bytes() == before[0]
        assert (source.read_bytes(), source.stat().st_mtime_ns) == before


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_turned_picture_reads_as_its_boxes_stand(tmp_path: Path, kind: str, orientation: int) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{kind}"
    Image.fromarray(pixels).save(path, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    upright = load_image(path)
    box = (1, 0.9, (0, 0, 7, 7))
    write_run(tmp_path / "out", [(item(path.name, path), answer(box, height=len(upright), width=upright.shape[1]))])
    write_yolo(conversion(tmp_path / "out"))
    (placed,) = (tmp_path / "out/yolo/images/train").glob("*")
    np.testing.assert_array_equal(load_image(placed), upright)
    linked = orientation == 1 or (kind == "jpg" and orientation not in (5, 7))
    assert placed.is_symlink() == linked
    if not linked:  # no reader can turn it once more
        np.testing.assert_array_equal(load_image(placed, upright=False), upright)


def test_what_ultralytics_does_not_read_becomes_png_and_suffixes_are_of_what_is_inside(tmp_path: Path) -> None:
    pixels = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    given = {"a.gif": "GIF", "b.ppm": "PPM", "c.jpg": "PNG", "d": "JPEG", "e.jpe": "JPEG", "f.jpeg": "JPEG"}
    for name, kind in given.items():
        Image.fromarray(pixels).save(tmp_path / name, format=kind)
    small = answer(height=20, width=30)
    write_run(tmp_path / "out", [(item(name, tmp_path / name), small) for name in given])
    write_yolo(conversion(tmp_path / "out"))
    images = tmp_path / "out/yolo/images/train"
    assert files_below(images) == ["a.png", "b.png", "c.png", "d.jpg", "e.jpg", "f.jpeg"]
    assert not (images / "a.png").is_symlink() and (images / "c.png").is_symlink()


def test_pictures_that_are_no_files_are_written_out_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {name: _picture(tmp_path / name).read_bytes() for name in ("a.jpg", "b")}
    monkeypatch.setattr(
        "glip_export.labelling.formats.picture_files.read_picture", lambda where, name: io.BytesIO(data[where.path])
    )
    write_run(tmp_path / "out", [(Item(f"x.tar/{name}", Where(name, offset=512)), ONE) for name in data])
    write_yolo(conversion(tmp_path / "out"))
    for name, written in (("a.jpg", "a.jpg"), ("b", "b.jpg")):
        placed = tmp_path / "out/yolo/images/train/x.tar" / written
        assert not placed.is_symlink() and placed.read_bytes() == data[name]


def test_a_jpeg_without_its_end_is_not_linked(tmp_path: Path) -> None:
    source = _picture(tmp_path / "a.jpg")
    source.write_bytes(source.read_bytes() + b"junk")  # Ultralytics would repair it, through the link
    write_run(tmp_path / "out", [(item("a.jpg", source), ONE)])
    for _ in range(2):
        write_yolo(conversion(tmp_path / "out"))
        placed = tmp_path / "out/yolo/images/train/a.jpg"
        assert not placed.is_symlink() and placed.read_bytes() == source.read_bytes()
        placed.write_bytes(b"repaired")
        os.utime(placed, ns=(2**62, 2**62))


def test_pictures_that_are_gone_or_changed_are_left_out_and_told(tmp_path: Path) -> None:
    good = _picture(tmp_path / "a.jpg")
    changed = _picture(tmp_path / "b.jpg", 50, 60)
    broken = tmp_path / "c.jpg"
    broken.write_bytes(b"no picture")
    pictures = [(item(path.name, path), ONE) for path in (good, changed, broken, tmp_path / "gone.jpg")]
    write_run(tmp_path / "out", pictures)
    with pytest.warns(GlipExportWarning, match=r"3 picture\(s\) are not in .*yolo: 'b.jpg' is 60 x 50 pixels and was"):
        _, listed = write_yolo(conversion(tmp_path / "out"))
    entries = [json.loads(line) for line in listed.read_text().splitlines()]
    assert entries[0] == {"source": "a.jpg", "image": "images/train/a.jpg", "label": "labels/train/a.txt"}
    assert [each["source"] for each in entries if "left_out" in each] == ["b.jpg", "c.jpg", "gone.jpg"]
    assert files_below(tmp_path / "out/yolo/labels") == ["train/a.txt"]


def test_a_split_that_sets_no_picture_apart_is_told(tmp_path: Path) -> None:
    write_run(tmp_path, [(item("0.jpg"), ONE)])
    with pytest.warns(GlipExportWarning, match="no picture of 1 validates"):
        data_file, _ = write_yolo(conversion(tmp_path, val=1e-9, pictures="none"))
    assert yaml.safe_load(data_file.read_text())["val"] == "images/train"


def test_nothing_is_left_of_an_earlier_one_and_what_ultralytics_keeps_goes_too(tmp_path: Path) -> None:
    write_run(tmp_path, [(item(f"{number}.jpg"), ONE) for number in range(8)])
    write_yolo(conversion(tmp_path, val=0.5, pictures="none"))
    cache = tmp_path / "yolo/labels/train.cache"
    cache.write_text("of Ultralytics")
    os.utime(cache, ns=(2**62, 2**62))
    write_yolo(conversion(tmp_path, pictures="none"))
    assert files_below(tmp_path / "yolo") == [
        "_made.json",
        "data.yaml",
        *(f"labels/train/{number}.txt" for number in range(8)),
        "pictures.jsonl",
    ]


def test_a_label_file_that_was_deleted_is_not_made_again(tmp_path: Path) -> None:
    write_run(tmp_path, [(item(f"{number}.jpg"), ONE) for number in range(3)])
    write_yolo(conversion(tmp_path, pictures="none"))
    (tmp_path / "yolo/labels/train/1.txt").unlink()
    with pytest.raises(GlipExportError, match=r"it holds 4 files and was made with 5: move it elsewhere"):
        write_yolo(conversion(tmp_path, pictures="none"))


def test_labels_corrected_by_hand_are_not_lost(tmp_path: Path) -> None:
    write_run(tmp_path, [(item("a.jpg"), ONE)])
    write_yolo(conversion(tmp_path, pictures="none"))
    label = tmp_path / "yolo/labels/train/a.txt"
    label.write_text("0 0.5 0.5 1 1\n")
    os.utime(label, ns=(2**62, 2**62))
    with pytest.raises(GlipExportError, match=r"since labels/train/a.txt in it was changed"):
        write_yolo(conversion(tmp_path, pictures="none"))
    assert label.read_text() == "0 0.5 0.5 1 1\n"


@pytest.mark.parametrize("name", ['it\'s: #1 "x"', "名前 🐱", "\x1b[31m\u2028\x85\x7f", "yes", "- a", "\ufeffb"])
def test_any_name_is_yaml(tmp_path: Path, name: str) -> None:
    write_run(tmp_path, [(item("a.jpg"), ONE)])
    data_file, _ = write_yolo(replace(conversion(tmp_path, pictures="none"), names=(name, "b", "c")))
    assert yaml.safe_load(data_file.read_text(encoding="utf-8"))["names"] == {0: name, 1: "b", 2: "c"}


def _picture(path: Path, height: int = HEIGHT, width: int = WIDTH) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (40, 90, 20)).save(path, format="JPEG")
    return path
