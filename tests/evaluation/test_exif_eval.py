"""Pictures that carry an EXIF orientation: as stored, like the original's loader, unless annotated turned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import Answers, write_set
from PIL import ExifTags, Image

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export.config import ImageConfig
from glip_export.evaluation import CocoDataset, evaluate_coco
from glip_export.evaluation.pictures import in_groups, read_batches

HEIGHT, WIDTH = 40, 60


def tagged(folder: Path, orientation: int, change: Any = None, size: tuple[int, int] = (HEIGHT, WIDTH)) -> CocoDataset:
    """One picture, its left half bright, that carries the orientation."""
    annotations, images = write_set(folder, {1: size}, [(1, 1, (2, 2, 20, 20))], change=change)
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:, : size[1] // 2] = 200
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(images / "1.png", exif=exif)
    return CocoDataset.read(annotations, images)


def read(dataset: CocoDataset):
    ((found,),) = (list(read_batches(in_groups(dataset.images, False), 0, 3, ImageConfig())),)
    return found


def annotated_as(height: int, width: int):
    return lambda content: content["images"][0].update(height=height, width=width)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_eval_takes_pictures_as_they_are_stored(tmp_path: Path, orientation: int) -> None:
    """The annotated size fits the stored picture: of those that fit both, squares too, nothing is turned."""
    for name, size in (("oblong", (HEIGHT, WIDTH)), ("square", (50, 50))):
        found = read(tagged(tmp_path / name, orientation, size=size))
        (pixels,) = found.pictures
        assert pixels.shape[:2] == size and pixels[0, 0, 0] == pixels[-1, 0, 0] == 200 and pixels[0, -1, 0] == 0
        assert not found.turned and not found.problems


def test_exif_eval_without_an_annotated_size_takes_them_as_stored(tmp_path: Path) -> None:
    def change(content) -> None:
        del content["images"][0]["height"], content["images"][0]["width"]

    assert read(tagged(tmp_path, 6, change)).pictures[0].shape[:2] == (HEIGHT, WIDTH)


@pytest.mark.parametrize(("orientation", "bright"), [(5, 0), (6, 0), (7, -1), (8, -1)])
def test_exif_eval_turns_what_is_annotated_turned(tmp_path: Path, orientation: int, bright: int) -> None:
    found = read(tagged(tmp_path, orientation, annotated_as(WIDTH, HEIGHT)))
    (pixels,) = found.pictures
    assert pixels.shape[:2] == (WIDTH, HEIGHT) and (pixels[bright] == 200).all() and (pixels[-1 - bright] == 0).all()
    assert found.turned == [1] and not found.problems


@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (WIDTH, HEIGHT)), (3, (WIDTH, HEIGHT)), (6, (80, 40)), (6, (HEIGHT, HEIGHT))]
)
def test_exif_eval_tells_sizes_that_fit_neither(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    found = read(tagged(tmp_path, orientation, annotated_as(*size)))
    assert found.pictures[0].shape[:2] == (HEIGHT, WIDTH) and not found.turned
    assert [problem.kind for problem in found.problems] == ["picture: of another size"]


def test_exif_eval_says_once_how_many_were_turned(eval_coco, photos, tiny_bundle: Path, tmp_path: Path) -> None:
    """What is turned is no problem: --strict goes on. The detections are those of the turned picture."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = json.loads(photos[0].read_text(encoding="utf-8"))
    (tmp_path / "turned").mkdir()
    for number in range(1, 11):
        upright = Image.open(photos[1] / f"{number}.png")
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned" / f"{number}.png", exif=exif)
    (tmp_path / "truth.json").write_text(json.dumps(content), encoding="utf-8")
    words = ["--annotations", "truth.json", "--bundle", tiny_bundle, "--threads", 1, "--strict", "--limit", 5]
    for name, folder in (("upright", photos[1]), ("turned", "turned")):
        code, out, err = eval_coco(*words, "--images", folder, "--output", name, "--json", f"{name}.json")
        assert code == 0, err
        assert out.count("turned as EXIF says, since they are annotated so: 3 picture(s)") == (name == "turned")
    found = [tmp_path / name / "onnxruntime" / "detections.json" for name in ("upright", "turned")]
    one, other = (json.loads(path.read_text(encoding="utf-8")) for path in found)
    squares = {number for number in range(1, 11) if number % 3 == 2}  # these fit both: taken as stored
    one, other = ([each for each in results if each["image_id"] not in squares] for results in (one, other))
    assert {each["image_id"] for each in one} == {1, 3, 4} and one == other
    report = json.loads((tmp_path / "turned.json").read_text(encoding="utf-8"))
    assert report["notes"] == ["turned as EXIF says, since they are annotated so: 3 picture(s)"]
    assert report["backends"]["onnxruntime"]["turned"] == 3 and report["problems"]["counts"] == {}


@pytest.mark.parametrize("batch", [1, 3])
def test_exif_eval_finds_what_it_finds_without_the_tag(
    eval_coco, photos, tiny_bundle: Path, tmp_path: Path, batch: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    (tmp_path / "tagged").mkdir()
    for number in range(1, 11):
        Image.open(photos[1] / f"{number}.png").save(tmp_path / "tagged" / f"{number}.png", exif=exif)
    words = ["--annotations", photos[0], "--bundle", tiny_bundle, "--threads", 1, "--limit", 4, "--batch", batch]
    found = {}
    for name, folder in (("plain", photos[1]), ("tagged", "tagged")):
        assert eval_coco(*words, "--images", folder, "--output", name)[0] == 0
        found[name] = (tmp_path / name / "onnxruntime" / "detections.json").read_bytes()
    assert found["plain"] == found["tagged"] and len(found["plain"]) > 1000


def test_exif_eval_does_not_go_on_with_what_was_found_upright(
    eval_coco, photos, tiny_bundle: Path, tmp_path: Path
) -> None:
    words = ["--images", photos[1], "--annotations", photos[0], "--bundle", tiny_bundle, "--threads", 1]
    assert eval_coco(*words, "--limit", 2, "--output", "out")[0] == 0
    journal = tmp_path / "out" / "onnxruntime" / "progress.jsonl"
    first, *rest = journal.read_text(encoding="utf-8").splitlines()
    before = json.loads(first)
    del before["identity"]["pictures_as"]
    journal.write_text("\n".join([json.dumps(before), *rest, ""]), encoding="utf-8")
    code, out, _ = eval_coco(*words, "--limit", 2, "--output", "out")
    assert code == 0 and 'pictures_as null, now "stored"): started over' in out


def test_string_image_ids_go_through_to_the_results(tmp_path: Path) -> None:
    def change(content) -> None:
        content["images"][0]["id"] = content["annotations"][0]["image_id"] = "img-7"

    dataset = CocoDataset.read(*write_set(tmp_path, {7: (200, 200)}, [(7, 1, (10, 20, 100, 100))], change=change))
    found = evaluate_coco(Answers({7: [(0, 0.9, (10, 20, 109, 119))]}), dataset)
    assert found.detections[0]["image_id"] == "img-7" and found.scores.values["AP"] == pytest.approx(1.0)
