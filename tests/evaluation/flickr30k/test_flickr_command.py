"""glip-export eval flickr30k: what it prints and writes; on after kill -9; a file in a bundle's place; refusals."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_flickr import BOXES, PEOPLE, entry, write_entities, write_grounding
from waiting import wait_until

from glip_export.evaluation.rows import ROW

ORACLE = Path(__file__).parents[2] / "data" / "oracle" / "flickr_eval"
Run = Callable[..., tuple[int, str, str]]
KEPT = Path("onnxruntime") / "detections.jsonl"


@pytest.fixture
def images(photos: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(photos[1], tmp_path / "images"))


@pytest.fixture
def scored(photos: tuple[Path, Path], tmp_path: Path) -> list[object]:
    """Two sentences of each of ten photos, and one without a phrase: the options that scoring needs."""
    content = json.loads(photos[0].read_text())
    entries = []
    for image in content["images"]:
        facts = {key: image[key] for key in ("file_name", "height", "width")}
        for sentence in range(2):
            entries.append(entry(len(entries), image["id"], sentence, **facts))
        entries.append(entry(len(entries), image["id"], 2, **facts, tokens_positive_eval=[]))
    sentences = {str(image["id"]): f"{PEOPLE}\n{PEOPLE}\nNothing ." for image in content["images"]}
    entities = write_entities(tmp_path / "entities", sentences, BOXES)
    return ["--annotations", write_grounding(tmp_path / "grounding_test.json", entries), "--entities", entities]


@pytest.fixture
def words(scored, images: Path, tiny_bundle: Path) -> list[object]:
    return [*scored, "--images", images, "--bundle", tiny_bundle, "--threads", 1]


def report_of(path: Path) -> dict[str, Any]:
    """The JSON without what may differ between equal runs."""
    report: dict[str, Any] = json.loads(path.read_text())
    for backend in report["backends"].values():
        backend.pop("seconds")
    return report


@pytest.mark.parametrize(("mode", "option"), [("separate", []), ("merged", ["--merged"])])
def test_the_numbers_of_a_file_are_the_originals(eval_flickr: Run, mode: str, option, tmp_path: Path) -> None:
    predictions = json.loads((ORACLE / "predictions.json").read_text())
    with (tmp_path / "theirs.jsonl").open("w") as file:
        for each in predictions:
            scores = [[*scores, 0] for scores in each["scores"]]
            pairs = [zip(*lists, strict=True) for lists in zip(each.pop("boxes"), scores, strict=True)]
            boxes = [[[*box, score] for box, score in pair] for pair in pairs]
            file.write(json.dumps({**each, "boxes": boxes}) + "\n")
    given = ["--annotations", ORACLE / "grounding_test.json", "--entities", ORACLE, *option]
    code, out, err = eval_flickr(*given, "--detections", "theirs.jsonl", "--json", "recall.json")
    assert code == 0, err
    expected = json.loads((ORACLE / "expected.json").read_text())["metrics"][mode]
    (backend,) = report_of(tmp_path / "recall.json")["backends"].values()
    assert list(backend["scores"].items()) == list(expected.items())
    assert f"{mode} boxes" in out and "instruments" in out and backend["sentences"] == 5


def test_a_bundle_and_then_its_file_give_the_same(eval_flickr: Run, words, scored, tmp_path: Path) -> None:
    code, out, _ = eval_flickr(*words, "--output", "out", "--json", "recall.json")
    assert code == 0 and "R@10" in out and "animals" in out
    report = report_of(tmp_path / "recall.json")
    backend = report["backends"]["onnxruntime"]
    assert (report["subset"], report["problems"]["counts"]) == ("test", {})
    assert backend["sentences"] == 20 and backend["phrases"] == {"all": 40, "animals": 20, "people": 20}
    lines = [json.loads(line) for line in (tmp_path / "out" / KEPT).open()]
    assert [(each["image_id"], each["sentence_id"]) for each in lines] == [(n // 3 + 1, n % 3) for n in range(30)]
    assert [len(each["boxes"]) for each in lines[:3]] == [2, 2, 0]
    assert backend["detections"] == sum(len(boxes) for each in lines for boxes in each["boxes"]) > 200
    assert eval_flickr(*scored, "--detections", tmp_path / "out" / KEPT, "--json", "again.json")[0] == 0
    (again,) = report_of(tmp_path / "again.json")["backends"].values()
    for key in ("scores", "phrases", "sentences", "detections"):
        assert again[key] == backend[key]


def test_merged_boxes_run_nothing_again(eval_flickr: Run, words, tmp_path: Path, monkeypatch) -> None:
    assert eval_flickr(*words, "--output", "out", "--limit", 3)[0] == 0
    monkeypatch.setattr("glip_export.runtime.detector.Detector.open", None)
    code, out, _ = eval_flickr(*words, "--output", "out", "--limit", 3, "--merged", "--json", "recall.json")
    assert code == 0 and "3 pictures, 6 sentences, 12 phrases: merged boxes" in out
    assert report_of(tmp_path / "recall.json")["backends"]["onnxruntime"]["mode"] == "merged"


def test_a_killed_run_goes_on_to_the_same_bytes(eval_flickr: Run, words, tmp_path: Path) -> None:
    assert eval_flickr(*words, "--output", "whole", "--json", "whole.json")[0] == 0
    command = [sys.executable, "-m", "glip_export.cli", "eval", "flickr30k", *map(str, words), "--output", "killed"]
    rows = tmp_path / "killed" / "onnxruntime" / "progress.rows"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: rows.exists() and rows.stat().st_size >= 100 * ROW.itemsize)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / KEPT).exists()
    assert eval_flickr(*words, "--output", "killed", "--json", "killed.json")[0] == 0
    assert (tmp_path / "whole" / KEPT).read_bytes() == (tmp_path / "killed" / KEPT).read_bytes()
    assert report_of(tmp_path / "whole.json") == report_of(tmp_path / "killed.json")


def test_two_workers_find_the_same(eval_flickr: Run, words, tmp_path: Path) -> None:
    for workers in (1, 2):
        assert eval_flickr(*words, "--limit", 4, "--workers", workers, "--output", f"of{workers}")[0] == 0
    one, two = ((tmp_path / f"of{workers}" / KEPT).read_bytes() for workers in (1, 2))
    assert one == two and one.count(b"\n") == 12


def test_backends_are_compared_with_the_first(eval_flickr: Run, words) -> None:
    several = ["--backend", "torch", "--backend", "onnxruntime", "--limit", 3, "--max-recall-difference", "0.01"]
    code, out, _ = eval_flickr(*words, *several)
    assert code == 0 and "PASSED: R@1" in out and "- torch" in out
    code, _, err = eval_flickr(*words, "--max-recall-difference", 1)
    assert code == 2 and "--max-recall-difference compares backends" in err


def test_broken_pictures_and_entities_are_left_out_and_counted(
    eval_flickr: Run, words, images: Path, tmp_path: Path
) -> None:
    next(images.glob("2.*")).unlink()
    next(images.glob("3.*")).write_bytes(b"no picture")
    (tmp_path / "entities" / "Annotations" / "4.xml").write_text("<!DOCTYPE a []><annotation/>")
    code, out, _ = eval_flickr(*words, "--output", "out", "--json", "recall.json")
    assert code == 0 and "has a DOCTYPE" in out
    report = report_of(tmp_path / "recall.json")
    assert report["problems"]["counts"] == {
        "entities: broken entry": 1,
        "picture: missing": 1,
        "picture: unreadable": 1,
    }
    backend = report["backends"]["onnxruntime"]
    assert (backend["pictures"], backend["left_out"], backend["sentences"]) == (8, 2, 14)
    assert (tmp_path / "out" / KEPT).read_text().count("\n") == 24
    code, _, err = eval_flickr(*words, "--strict")
    assert code == 2 and "without --strict" in err and len(err.splitlines()) == 1


def test_files_that_cannot_be_scored(eval_flickr: Run, scored, tmp_path: Path) -> None:
    file = tmp_path / "found.jsonl"
    good = [
        {"image_id": str(image), "sentence_id": sentence, "boxes": [[[1, 2, 3, 4, 0.5]], []]}
        for image in range(1, 11)
        for sentence in range(2)
    ]
    odd = [{**good[0], "boxes": []}, {"image_id": 1, "sentence_id": 2, "boxes": []}, {**good[0], "image_id": 99}, [1]]
    file.write_text("\n".join(map(json.dumps, [*good, *odd])))
    assert eval_flickr(*scored, "--detections", file, "--json", "recall.json")[0] == 0
    assert report_of(tmp_path / "recall.json")["problems"]["counts"] == {
        "detections: sentence used twice": 1,
        "detections: unknown sentence": 1,
        "detections: broken entry": 1,
    }
    assert eval_flickr(*scored, "--detections", file, "--strict")[0] == 2
    file.write_text("\n".join(map(json.dumps, [*good[1:], [1]])))
    code, _, err = eval_flickr(*scored, "--detections", file)
    assert code == 2 and "nothing is given for 1 of 20 sentences, the first of them sentence 0 of picture 1" in err
    assert "detections line 20" in err  # what may be why
    file.write_text("\n".join(map(json.dumps, [{**good[0], "boxes": [[]]}, *good[1:]])))
    code, _, err = eval_flickr(*scored, "--detections", file)
    assert code == 2 and "sentence 0 of picture 1 has boxes for 1 phrase(s), but 2 are scored" in err
    file.write_text("\n".join(map(json.dumps, good[:4])))
    assert eval_flickr(*scored, "--detections", file, "--limit", 2)[0] == 0


def test_what_is_refused(eval_flickr: Run, scored, words, tmp_path: Path) -> None:
    (tmp_path / "found.jsonl").write_text("")
    code, _, err = eval_flickr(*scored, "--detections", "found.jsonl", "--workers", 2)
    assert code == 2 and "--workers is for detecting" in err
    code, _, err = eval_flickr(*words, "--subset", "val")
    assert code == 2 and "val.txt" in err
    code, _, err = eval_flickr(*scored, *words[-4:])
    assert code == 2 and "--images" in err
    (tmp_path / "entities" / "Sentences" / "1.txt").write_text(PEOPLE + "\n[/EN#1/people She] rides .")
    code, _, err = eval_flickr(*words)
    assert code == 2 and "sentence 1 of picture 1 asks for 2 phrase(s), but 1 have boxes" in err


def test_ids_may_be_whole_floats_and_nothing_usable_is_refused(eval_flickr: Run, scored, tmp_path: Path) -> None:
    file = tmp_path / "found.jsonl"
    lines = [
        {"image_id": float(image), "sentence_id": float(sentence), "boxes": [[[10, 10, 60, 90, 0.5]], []]}
        for image in range(1, 11)
        for sentence in range(2)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    code, _, err = eval_flickr(*scored, "--detections", file, "--json", "recall.json")
    assert code == 0, err
    assert report_of(tmp_path / "recall.json")["scores"]["Recall@1_people"] == 1.0
    for line, words in (([1], "[1] is not an object"), ({**lines[0], "image_id": 99}, "there is no such sentence")):
        file.write_text(json.dumps(line))
        code, _, err = eval_flickr(*scored, "--detections", file)
        assert code == 2 and len(err.splitlines()) == 1 and words in err


def test_kept_detections_come_to_the_same_without_what_was_left_out(
    eval_flickr: Run, words, scored, images: Path, tmp_path: Path
) -> None:
    next(images.glob("2.*")).unlink()
    assert eval_flickr(*words, "--output", "out", "--json", "recall.json")[0] == 0
    assert json.loads((tmp_path / "out" / KEPT).with_name("left_out.json").read_text()) == [2]
    code, out, err = eval_flickr(*scored, "--detections", tmp_path / "out" / KEPT, "--json", "again.json")
    assert code == 0 and "1 picture(s) are not counted" in out, err
    (one,), (other,) = (report_of(tmp_path / name)["backends"].values() for name in ("recall.json", "again.json"))
    for key in ("scores", "phrases", "sentences", "pictures", "left_out", "detections"):
        assert one[key] == other[key], key
    assert one["left_out"] == 1
