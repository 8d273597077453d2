"""glip-export label: from pictures to data sets, through worker processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from command_line import CAT, refused
from PIL import Image
from waiting import wait_until, wait_until_gone

from glip_export import Detector
from glip_export.labelling.shards import Labelled, read_shards, shard_files

PROMPT = "cat. remote control. sofa"
LABEL = ("--prompt", PROMPT, "--threshold", "0.02", "--threads", "1")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Seven parts of a photo, of three shapes, in folders."""
    folder = tmp_path / "pictures"
    photo = Image.open(CAT)
    for number in range(7):
        width, height = ((160, 120), (120, 160), (200, 90))[number % 3]
        path = folder / f"part{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((10 * number, 5 * number, 10 * number + width, 5 * number + height)).save(path)
    return folder


def rows(folder: Path) -> list[Labelled]:
    """What a run's shards hold."""
    return list(read_shards(folder))


def bits(row: Labelled) -> tuple[object, ...]:
    """All that was found on a picture, to compare to the last bit."""
    answer = row.answer
    arrays = (answer.labels.tobytes(), answer.scores.tobytes(), answer.boxes.tobytes())
    return row.source, answer.height, answer.width, answer.error, *arrays


def test_each_picture_is_answered_as_if_alone(glip_export: Callable, pictures: Path, tiny_bundle: Path) -> None:
    code, out, err = glip_export("label", pictures, *LABEL, "--bundle", tiny_bundle, "--output", "one")
    assert code == 0, err
    assert "7 picture(s)" in out and "coco/annotations.json" in out
    detector = Detector.open(tiny_bundle, threads=1)
    for row in rows(Path("one")):
        found = detector.detect([pictures / row.source], PROMPT)[0].above(0.02)
        assert len(found) and (row.answer.boxes == found.boxes).all() and (row.answer.scores == found.scores).all()
        assert (row.answer.labels == found.labels).all() and not row.answer.error
        assert (row.answer.height, row.answer.width) == found.image_size
    assert [row.source for row in rows(Path("one"))] == sorted(
        path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png")
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_workers_and_shards_change_nothing(
    glip_export: Callable, pictures: Path, tiny_bundle: Path, backend: str
) -> None:
    how = ("label", pictures, *LABEL, "--bundle", tiny_bundle, "--backend", backend)
    assert glip_export(*how, "--output", "one")[0] == 0
    assert glip_export(*how, "--output", "two", "--workers", "2", "--shard-size", "2")[0] == 0
    assert list(map(bits, rows(Path("one")))) == list(map(bits, rows(Path("two"))))
    documents = [json.loads(Path(name, "coco", "annotations.json").read_text()) for name in ("one", "two")]
    assert documents[0]["annotations"] == documents[1]["annotations"] and documents[0]["annotations"]


def test_another_data_set_of_the_same_labels_opens_no_model(
    glip_export: Callable, pictures: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = ("label", pictures, "--prompt", PROMPT, "--threads", "1", "--bundle", tiny_bundle, "--output", "labels")
    assert glip_export(*how, "--threshold", "0.02")[0] == 0
    before = json.loads(Path("labels/coco/annotations.json").read_text())["annotations"]
    monkeypatch.setattr("glip_export.labelling.local._Pool._start", None)
    scores = sorted(each["score"] for each in before)
    higher = (scores[len(scores) // 2] + scores[len(scores) // 2 + 1]) / 2
    code, out, err = glip_export(*how, "--threshold", higher, "--val", "0.4", "--json", "labels.json")
    assert code == 0 and "all were labelled before" in out, err
    after = [
        each
        for part in ("train", "val")
        for each in json.loads(Path(f"labels/coco/instances_{part}.json").read_text())["annotations"]
    ]
    assert {round(each["score"], 6) for each in after} == {round(score, 6) for score in scores if score >= higher}
    summary = json.loads(Path("labels.json").read_text())
    assert summary["labelled_now"] == 0 and summary["boxes"] == len(after) and summary["pictures"] == 7
    refused(glip_export(*how, "--threshold", "0.01"), "scores below 0.02 were not kept")
    refused(glip_export(*how, "--threshold", "0.02", "--chunk", "1"), "chunk was None and is 1 now")


def test_a_bad_picture_is_a_row_of_errors(glip_export: Callable, pictures: Path, tiny_bundle: Path) -> None:
    (pictures / "part0" / "bad.png").write_bytes(b"no picture")
    how = ("label", pictures, *LABEL, "--bundle", tiny_bundle, "--output")
    code, out, err = glip_export(*how, "labels")
    assert code == 0, err
    errors = [json.loads(line) for line in Path("labels/errors.jsonl").read_text().splitlines()]
    assert [error["source"] for error in errors] == ["part0/bad.png"] and "not a picture" in errors[0]["error"]
    assert "1 with an error" in out and len(rows(Path("labels"))) == 8
    refused(glip_export(*how, "strict", "--strict"), "bad.png", "without --strict")
    for path in pictures.rglob("?.png"):
        path.write_bytes(b"")
    refused(glip_export(*how, "none"), "none of the 8 pictures could be used", "errors.jsonl")


def test_thresholds_by_name(glip_export: Callable, pictures: Path, tiny_bundle: Path) -> None:
    Path("thresholds.json").write_text('{"sofa": 1}')
    how = ("label", pictures, *LABEL, "--bundle", tiny_bundle, "--thresholds", "thresholds.json", "--output", "labels")
    assert glip_export(*how)[0] == 0
    document = json.loads(Path("labels/coco/annotations.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    found = {names[each["category_id"]] for each in document["annotations"]}
    assert found and "sofa" not in found and min(row.answer.scores.min() for row in rows(Path("labels"))) >= 0.02


def test_what_a_person_should_know_of_the_prompt_is_told_once(
    glip_export: Callable, pictures: Path, tiny_bundle: Path
) -> None:
    how = ("--bundle", tiny_bundle, "--output", "labels", "--workers", "2", "--shard-size", "2", "--threads", "1")
    code, _, err = glip_export("label", pictures, "--prompt", "cat, dog", *how)
    assert code == 0 and err.count("is one name; names are separated by stops") == 1


def test_several_scales(glip_export: Callable, pictures: Path, several_scales_bundle: Path) -> None:
    how = ("label", pictures / "part1", *LABEL, "--bundle", several_scales_bundle, "--output", "labels")
    code, _, err = glip_export(*how)
    assert code == 0, err
    detector = Detector.open(several_scales_bundle, threads=1)
    for row in rows(Path("labels")):
        found = detector.detect([pictures / "part1" / row.source], PROMPT)[0].above(0.02)
        assert np.array_equal(row.answer.boxes, found.boxes) and len(found)


def test_mistakes_are_one_line(glip_export: Callable, pictures: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    how = ("--bundle", tiny_bundle, "--output", "labels")
    ask = ("--prompt", "cat")
    refused(glip_export("label", pictures, *how), "one of --prompt and --names")
    refused(glip_export("label", "nowhere", *ask, *how), "nowhere")
    refused(glip_export("label", pictures, *ask, *how, "--threshold", "0.5", "--thresholds", "none.json"), "none.json")
    refused(glip_export("label", pictures, *ask, *how, "--gpus-per-worker", "1"), "--gpus-per-worker is for --ray")
    refused(glip_export("label", pictures, *ask, *how, "--backend", "magic"), "there is no backend 'magic'")
    refused(glip_export("label", pictures, *ask, "--bundle", tiny_bundle, "--output", pictures), "the source itself")
    picture = next(pictures.rglob("*.png"))
    refused(glip_export("label", pictures, *ask, *how, "--html", picture), "may be a picture of the source")
    manifest = tiny_bundle / "manifest.json"
    refused(glip_export("label", pictures, *ask, *how, "--json", manifest), "is a file that this command reads")
    long = " ".join(["cat"] * 300)
    refused(glip_export("label", pictures, "--prompt", long, *how), "tokens")


@pytest.mark.parametrize(
    ("sent", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ended_from_outside_it_ends_its_workers_and_goes_on(
    glip_export: Callable, pictures: Path, tiny_bundle: Path, sent: signal.Signals, code: int, word: str
) -> None:
    Path("list.txt").write_text("".join(f"{path}\n" for path in sorted(pictures.rglob("*.png"))) * 12)
    how = ["label", "list.txt", *LABEL, "--bundle", str(tiny_bundle), "--output", "labels", "--shard-size", "4"]
    # A shell that runs us in the background has SIGINT ignored.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"{heeding}; from glip_export.cli import main; main()"
    running = subprocess.Popen([sys.executable, "-c", start, *how], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(shard_files(Path("labels"))) > 1)
    workers = [child.pid for child in psutil.Process(running.pid).children(recursive=True)]
    running.send_signal(sent)
    _, err = running.communicate()
    assert running.returncode == code and word in err and "Traceback" not in err, err
    wait_until_gone(workers)
    assert glip_export(*how)[0] == 0
    assert len(rows(Path("labels"))) == 84
