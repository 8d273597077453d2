"""glip-export eval coco: what it writes, goes on with after kill -9, and refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from answers import IDS, NAMES
from waiting import wait_until

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export import Detector
from glip_export.evaluation import CocoDataset

CAT = Path(__file__).parents[2] / "glip_export" / "data" / "pictures" / "cat.jpg"


@pytest.fixture
def words(photos: tuple[Path, Path], tiny_bundle: Path) -> list[object]:
    return ["--images", photos[1], "--annotations", photos[0], "--bundle", tiny_bundle, "--threads", 1]


def replaced(words: list[object], option: str, *values: object) -> list[object]:
    """The words with the option given so, and not as before: each is given once."""
    kept = [word for at, word in enumerate(words) if word != option and (at == 0 or words[at - 1] != option)]
    return [*kept, option, *values]


def refused(result: tuple[int, str, str], *expected: str) -> None:
    code, out, err = result
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2 and len(lines) == 1 and "Traceback" not in out + err, result
    for word in expected:
        assert word in lines[0], lines[0]


def test_detections_are_the_detectors_own(eval_coco, words, photos, tiny_bundle: Path, tmp_path: Path) -> None:
    code, out, _ = eval_coco(*words, "--chunk", 2, "--output", "out", "--json", "ap.json")
    assert code == 0 and "AP50" in out and "coffee cup" in out
    found = json.loads((tmp_path / "out" / "onnxruntime" / "detections.json").read_text())
    paths = [photos[1] / f"{number}.png" for number in range(1, 11)]
    expected = Detector.open(tiny_bundle, threads=1).detect(paths, NAMES, batch_size=3, chunk=2)
    assert found == [
        result for number, detections in enumerate(expected, start=1) for result in detections.to_coco(number, IDS)
    ]
    report = json.loads((tmp_path / "ap.json").read_text())
    assert report["names"] == NAMES and report["batch"] == 3 and report["chunk"] == 2
    assert report["backends"]["onnxruntime"]["detections"] == len(found) > 200  # more than 100 for ten pictures


def test_names_from_a_file_and_from_words(eval_coco, words, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a cat\n\na cup of coffee\na rocket\n")
    for given in ("names.txt", "a cat. a cup of coffee. a rocket"):
        assert eval_coco(*words, "--names", given, "--limit", 1, "--json", "ap.json", "--output", given[:5])[0] == 0
        assert json.loads((tmp_path / "ap.json").read_text())["names"] == ["a cat", "a cup of coffee", "a rocket"]
    refused(eval_coco(*words, "--names", "cat. dog"), "2 names are given", "3 categories")
    assert not (tmp_path / "evaluation").exists()


def test_several_backends_are_compared_with_the_first(eval_coco, words, tmp_path: Path) -> None:
    several = ["--backend", "torch", "--backend", "onnxruntime", "--limit", 4, "--output", "out", "--json", "ap.json"]
    code, out, _ = eval_coco(*words, *several, "--max-ap-difference", "0.001")
    assert code == 0 and "PASSED" in out and "- torch" in out
    report = json.loads((tmp_path / "ap.json").read_text())
    assert list(report["backends"]) == ["torch", "onnxruntime"] and report["passed"] is True
    files = [tmp_path / "out" / name / "detections.json" for name in ("torch", "onnxruntime")]
    one, other = (json.loads(file.read_text()) for file in files)
    assert len(one) == len(other) > 200
    boxes = [np.array([item["bbox"] for item in found]) for found in (one, other)]
    assert np.median(np.abs(boxes[0] - boxes[1])) < 0.02


def test_an_ap_too_far_off_is_exit_code_1(eval_coco, words, tmp_path: Path, tiny_bundle: Path, monkeypatch) -> None:
    truth_from(tiny_bundle, words, tmp_path)
    several = ["--annotations", tmp_path / "truth.json", "--backend", "torch", "--backend", "onnxruntime", "--limit", 4]
    assert eval_coco(*words, *several, "--max-ap-difference", "0.001", "--output", "right")[0] == 0
    from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession

    right = OnnxRuntimeSession.fusion_head

    def wrong(session, *arguments):
        boxes, *rest = right(session, *arguments)
        return (boxes * np.float32(0.7), *rest)

    monkeypatch.setattr(OnnxRuntimeSession, "fusion_head", wrong)
    code, out, _ = eval_coco(*words, *several, "--max-ap-difference", "0.001", "--output", "wrong")
    assert code == 1 and "FAILED" in out


def truth_from(bundle: Path, words: list[object], folder: Path) -> None:
    """Annotations that are what the bundle's own torch reference finds best, so that AP is far from 0."""
    annotations, images = Path(str(words[3])), Path(str(words[1]))
    dataset = CocoDataset.read(annotations, images, 4)
    content = json.loads(annotations.read_text())
    found = Detector.open(bundle, "torch", threads=1).detect([each.path for each in dataset.images], NAMES, 3)
    best = [
        result
        for image, detections in zip(dataset.images, found, strict=True)
        for result in detections.to_coco(image.id, IDS)[:4]
    ]
    content["annotations"] = [{**result, "id": number} for number, result in enumerate(best, start=1)]
    (folder / "truth.json").write_text(json.dumps(content))


def start(words: list[object], folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "glip_export.cli", "eval", "coco", *map(str, words)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_killed_and_started_again_it_goes_on(eval_coco, words, tmp_path: Path, photos) -> None:
    shutil.copytree(photos[1], tmp_path / "images", copy_function=shutil.copy2)
    (tmp_path / "images" / "5.png").write_text("no picture")
    words = ["--images", "images", *words[2:], "--batch", 2]
    journal = tmp_path / "killed" / "onnxruntime" / "progress.jsonl"
    while True:
        killed = start([*words, "--output", "killed"], tmp_path)
        # Until what was asked and two batches are written.
        wait_until(
            lambda process=killed: (
                (journal.exists() and journal.read_bytes().count(b"\n") >= 3) or process.poll() is not None
            )
        )
        killed.kill()
        code, before = killed.wait(), journal.read_bytes()
        if code == -signal.SIGKILL and before.count(b"\n") < 6:  # of five batches some are missing
            break
        assert code in (0, -signal.SIGKILL)  # it was quicker than this process; once more
        shutil.rmtree(journal.parents[1])
    assert not (journal.parent / "detections.json").exists()
    with open(journal, "ab") as file:
        file.write(b'{"pictures": [9, 1')  # as if it had been killed while it wrote

    assert eval_coco(*words, "--output", "killed", "--json", "killed.json")[0] == 0
    assert journal.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    assert eval_coco(*words, "--output", "whole", "--json", "whole.json")[0] == 0
    name = "onnxruntime/detections.json"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("killed", "whole"))
    for report in (one, other):
        del report["backends"]["onnxruntime"]["seconds"]
    assert one == other and one["backends"]["onnxruntime"]["left_out"] == 1


def test_another_question_in_the_same_folder_starts_over(eval_coco, words, tmp_path: Path) -> None:
    assert eval_coco(*words, "--limit", 2, "--output", "out")[0] == 0
    code, out, _ = eval_coco(*words, "--limit", 3, "--output", "out")
    assert code == 0 and "was of another evaluation (pictures_sha256 differs; limit 2, now 3): started over" in out
    assert (tmp_path / "out" / "onnxruntime" / "progress.jsonl.old").exists()
    found = json.loads((tmp_path / "out" / "onnxruntime" / "detections.json").read_text())
    assert {result["image_id"] for result in found} == {1, 2, 3}
    assert "started over" not in eval_coco(*words, "--limit", 3, "--output", "out")[1]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda content: content["images"].append({"id": 77, "file_name": "77.png"}), "picture: missing"),
        (lambda content: content["images"].append({"id": 77, "file_name": "../1.png"}), "picture: path outside"),
        (lambda content: content["annotations"][0].update(bbox=[1, 2, float("nan"), 4]), "annotation: degenerate box"),
        (lambda content: content["annotations"][0].pop("image_id"), "annotation: broken entry"),
        (lambda content: content["categories"].append({"id": 4, "name": "dog"}), "category: id used twice"),
    ],
)
def test_what_is_broken_is_told_and_fatal_only_if_strict(
    eval_coco, words, photos, tmp_path: Path, change, kind: str
) -> None:
    content = json.loads(photos[0].read_text())
    content["images"] = content["images"][:2]
    content["annotations"] = content["annotations"][:2]
    change(content)
    (tmp_path / "broken.json").write_text(json.dumps(content))
    words = [*replaced(words, "--annotations", "broken.json"), "--json", "ap.json"]
    code, out, _ = eval_coco(*words)
    assert code == 0 and kind in out and "broken, left out or doubtful" in out
    counted = json.loads((tmp_path / "ap.json").read_text())["problems"]["counts"]
    assert [count for name, count in counted.items() if name.startswith(kind)] == [1] and len(counted) == 1
    refused(eval_coco(*words, "--strict", "--output", "strict"), "broken.json: ", "--strict")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--annotations", "none.json"], ["none.json", "No such file"]),
        (["--annotations", CAT], ["cat.jpg is no COCO annotation file", "not JSON"]),
        (["--images", "none"], ["none does not exist"]),
        (["--bundle", "none"], ["no bundle at none"]),
        (["--backend", "tpu"], ["no backend 'tpu'"]),
        (["--backend", "onnxruntime", "--backend", "tpu"], ["no backend 'tpu'"]),
        (["--backend", "torch", "--weights", "none.pth"], ["none.pth"]),
        (["--max-ap-difference", "0.1"], ["--max-ap-difference", "--backend twice"]),
        (["--names", ". ."], ["the prompt is empty"]),
        (["--output", "file"], ["cannot write file"]),
    ],
)
def test_mistakes_are_one_line(eval_coco, words, tmp_path: Path, more, expected) -> None:
    (tmp_path / "file").write_text("")
    option, *values = more
    refused(eval_coco(*replaced(words, option, *values)), *expected)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]  # nothing ran before the mistake was told


def test_wrong_words_are_usage(eval_coco, words) -> None:
    for option, value in (
        ("--batch", 0),
        ("--chunk", 0),
        ("--limit", 0),
        ("--max-ap-difference", -1),
        ("--threads", 0),
    ):
        code, _, err = eval_coco(*replaced(words, option, value))
        assert code == 2 and f"Invalid value for '{option}'" in err
    assert eval_coco()[0] == 2


def test_without_pycocotools(eval_coco, words, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    refused(eval_coco(*words, "--limit", 1), "pip install 'glip-export[eval]'")


def test_kept_detections_come_to_the_same_without_the_pictures_that_were_left_out(
    eval_coco, words, photos, tmp_path: Path
) -> None:
    images = Path(shutil.copytree(photos[1], tmp_path / "images"))
    (images / "2.png").unlink()
    (images / "3.png").write_bytes(b"no picture")
    words = replaced(words, "--images", images)
    assert eval_coco(*words, "--output", "out", "--json", "ap.json")[0] == 0
    kept = tmp_path / "out" / "onnxruntime" / "detections.json"
    file = kept.with_name("left_out.json")
    assert json.loads(file.read_text()) == [2, 3]
    scored = ["--annotations", photos[0], "--detections", kept]
    code, out, _ = eval_coco(*scored, "--json", "again.json")
    assert code == 0 and "2 picture(s) are not counted" in out
    first, again = (json.loads((tmp_path / name).read_text()) for name in ("ap.json", "again.json"))
    one, other = first["backends"]["onnxruntime"], again["backends"]["detections.json"]
    for key in ("scores", "classes", "pictures", "left_out", "detections"):
        assert one[key] == other[key], key
    assert one["left_out"] == 2 and [each for each in again["notes"] if "left_out.json" in each]
    refused(eval_coco(*scored, "--json", file), "left_out.json is a file that this command reads")
    file.write_text("[2, 3, 99]")
    code, out, _ = eval_coco(*scored, "--json", "again.json")
    assert code == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["problems"]["counts"] == {"left_out.json: unknown picture": 1} and again["scores"] == first["scores"]
    refused(eval_coco(*scored, "--strict"), "it has 99, which is no picture's id", "without --strict")
    for text in ('{"left_out": 2}', "[2.5]", "[true]", "[2"):
        file.write_text(text)
        refused(eval_coco(*scored), "left_out.json", "remove it to count them")
    file.write_text(json.dumps(list(range(1, 11))))
    refused(eval_coco(*scored), "not one of the 10 picture(s) is left")
    file.unlink()
    code, _, _ = eval_coco(*scored, "--json", "all.json")
    assert json.loads((tmp_path / "all.json").read_text())["backends"]["detections.json"]["left_out"] == 0


def test_a_run_that_reads_every_picture_removes_an_earlier_ones_list(eval_coco, words, tmp_path: Path) -> None:
    stale = tmp_path / "out" / "onnxruntime" / "left_out.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("[1]")
    assert eval_coco(*words, "--limit", 3, "--output", "out")[0] == 0
    assert not stale.exists()
    read = stale.with_name("left_out.json")
    shutil.copyfile(words[3], read)
    refused(eval_coco(*words, "--annotations", read, "--output", "out"), "left_out.json", "reads")
    assert read.read_bytes() == Path(str(words[3])).read_bytes()
