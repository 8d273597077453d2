"""glip-export eval odinw: its tables and JSON, what it goes on with after kill -9, scores from a file, and refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from task_files import named
from waiting import wait_until

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export import Detector
from glip_export.prompt import Prompt

BOTH = ["--backend", "onnxruntime", "--backend", "torch"]
Run = Callable[..., tuple[int, str, str]]
FLYING = [
    {"prefix": "a ", "name": "space ship", "suffix": " that flies"},
    {"prefix": "", "name": "kitten", "suffix": ""},
]


@pytest.fixture
def root(photos: tuple[Path, Path], tmp_path: Path) -> Path:
    """DATASET: the photos with the tasks Flying, of two categories by other words, and Photos, of the file's three."""
    root = tmp_path / "DATASET"
    place = root / "odinw" / "photos" / "valid"
    shutil.copytree(photos[1], place)
    shutil.copyfile(photos[0], place / "annotations.json")
    register = {"val": {"img_dir": "odinw/photos/valid", "ann_file": "odinw/photos/valid/annotations.json"}}
    override = repr(named((31, "rocket"), (4, "cat")))
    task(root / "Flying.yaml", REGISTER=register, OVERRIDE_CATEGORY=override, CAPTION_PROMPT=repr(FLYING))
    task(root / "Photos.yaml", REGISTER={**register, "test": register["val"]})
    return root


def task(path: Path, **datasets: object) -> None:
    content = {"DATASETS": {"TEST": '("val",)', **datasets}, "MODEL": {"ATSS": {"NUM_CLASSES": 4}}}
    path.write_text(yaml.safe_dump(content))


@pytest.fixture
def words(root: Path, tiny_bundle: Path) -> list[object]:
    return ["--config", root, "--images", root, "--bundle", tiny_bundle, "--threads", 1, "--limit", 3]


def test_every_data_set_and_the_average(eval_odinw: Run, words, root: Path, tiny_bundle: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = eval_odinw(*words, "--output", "out", "--json", "ap.json")
    assert code == 0 and "Flying" in out and "Photos" in out and "average" in out
    report = json.loads((tmp_path / "ap.json").read_text())
    assert report["batch"] == 1 and report["limit"] == 3 and report["passed"]
    tasks = report["tasks"]
    assert tasks["Flying"]["names"] == ["rocket", "cat"] and tasks["Photos"]["names"] == ["cat", "coffee cup", "rocket"]
    assert tasks["Flying"]["task"]["caption_prompt"][0] == FLYING[0] and tasks["Photos"]["task"]["caption_prompt"] == []
    assert tasks["Flying"]["problems"]["counts"] == {"annotation: unknown category": 4}  # coffee cups
    scores = [each["backends"]["onnxruntime"]["scores"] for each in tasks.values()]
    average = report["average"]["onnxruntime"]
    assert report["scores"] == average["scores"] and list(average["scores"]) == list(scores[0])
    assert average["scores"]["APs"] == average["scores"]["AP_small"]
    assert average["data_sets"] == 2 and average["scores"]["AP50"] == sum(each["AP50"] for each in scores) / 2
    asked = {
        "Flying": (Prompt.from_words([("a ", "space ship", " that flies"), ("", "kitten", "")]), (31, 4)),
        "Photos": (Prompt.of(["cat", "coffee cup", "rocket"]), (4, 20, 31)),
    }
    pictures = [root / "odinw" / "photos" / "valid" / f"{number}.png" for number in (1, 2, 3)]
    for name, (prompt, ids) in asked.items():
        expected = Detector.open(tiny_bundle, threads=1).detect(pictures, prompt, batch_size=1)
        found = json.loads((tmp_path / "out" / name / "onnxruntime" / "detections.json").read_text())
        assert [(each["category_id"], each["score"]) for each in found] == [
            (ids[label], float(score))
            for each in expected
            for label, score in zip(each.labels, each.scores, strict=True)
        ]


def test_all_data_sets_run_on_one_open_backend(eval_odinw: Run, words, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    opened: list[str] = []
    real = Detector.open

    def counted(bundle: Path, backend: str, *others: object) -> Detector:
        opened.append(backend)
        return real(bundle, backend, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Detector, "open", counted)
    code, out, _ = eval_odinw(
        *words, "--output", "out", "--max-ap-difference", 0.001, *backends("onnxruntime", "torch")
    )
    assert code == 0 and "PASSED: AP against onnxruntime's: every data set" in out
    assert opened[-2:] == ["onnxruntime", "torch"] and len(opened) <= 4  # once each to see that they open
    opened.clear()
    assert eval_odinw(*words, "--output", "out", *backends("onnxruntime", "torch"))[0] == 0
    assert opened == []  # all is kept


def backends(*words: str) -> list[str]:
    return [each for word in words for each in ("--backend", word)]


def test_killed_it_goes_on_and_finds_the_same(eval_odinw: Run, words, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = [*map(str, words[:-1]), "10"]
    assert eval_odinw(*words, "--output", "whole")[0] == 0
    command = [sys.executable, "-m", "glip_export.cli", "eval", "odinw", *words, "--output", "killed"]
    journal = tmp_path / "killed" / "Flying" / "onnxruntime" / "progress.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 2, process)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "Photos" / "onnxruntime" / "detections.json").exists()
    code, out, _ = eval_odinw(*words, "--output", "killed")
    assert code == 0 and "started over" not in out
    for name in ("Flying", "Photos"):
        whole, killed = (tmp_path / each / name / "onnxruntime" / "detections.json" for each in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes()


def test_other_words_start_over(eval_odinw: Run, words, root: Path) -> None:  # type: ignore[no-untyped-def]
    words = ["--config", root / "Flying.yaml", *words[2:], "--output", "out"]
    assert eval_odinw(*words)[0] == 0
    code, out, _ = eval_odinw(*words, "--no-caption-prompt")
    assert code == 0 and "was of another evaluation (task" in out


def test_a_file_of_detections(eval_odinw: Run, words, root: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (root / "odinw" / "photos" / "valid" / "2.png").unlink()
    assert eval_odinw(*words, "--output", "out", "--json", "ap.json")[0] == 0
    file = tmp_path / "out" / "Flying" / "onnxruntime" / "detections.json"
    one = ["--config", root / "Flying.yaml", "--images", root, "--limit", 3, "--detections", file]
    code, out, _ = eval_odinw(*one, "--json", "again.json")
    assert code == 0 and "Flying" in out
    first, again = (json.loads((tmp_path / name).read_text())["tasks"]["Flying"] for name in ("ap.json", "again.json"))
    backend, scored = first["backends"]["onnxruntime"], again["backends"]["detections.json"]
    for key in ("scores", "classes", "pictures", "left_out"):
        assert backend[key] == scored[key], key
    assert backend["left_out"] == 1 and "1 picture(s) are not counted" in out
    code, _, err = eval_odinw("--config", root, *one[2:])
    assert code == 2 and "--detections is of one data set, but --config has 2: Flying, Photos" in err
    code, _, err = eval_odinw(*one, "--batch", 2)
    assert code == 2 and "--batch is for detecting" in err


def test_a_file_of_detections_needs_no_words_to_ask_by(eval_odinw: Run, root: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((root / "Flying.yaml").read_text())
    content["DATASETS"]["CAPTION_PROMPT"] = "no/such/words.yaml"
    (root / "Flying.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "found.json").write_text("[]")
    one = ["--config", root / "Flying.yaml", "--images", root]
    code, out, _ = eval_odinw(*one, "--detections", "found.json")
    assert code == 0 and "0.000" in out
    content["DATASETS"]["CAPTION_PROMPT"] = repr(FLYING[:1])
    (root / "Flying.yaml").write_text(yaml.safe_dump(content))
    assert eval_odinw(*one, "--detections", "found.json")[0] == 0
    (tmp_path / "found.json").write_text("[null]")
    code, _, err = eval_odinw(*one, "--detections", "found.json")
    assert code == 2 and "has 1 entries, none of which is a detection of this data set" in err


def test_a_data_set_that_fails_is_shown_and_the_others_are_evaluated(
    eval_odinw: Run, words, root: Path, tmp_path: Path
) -> None:
    whole = root / "odinw" / "photos" / "valid"
    empty = root / "odinw" / "empty"
    empty.mkdir()
    shutil.copyfile(whole / "annotations.json", empty / "annotations.json")
    place = {"img_dir": "odinw/empty", "ann_file": "odinw/empty/annotations.json"}
    task(root / "Empty.yaml", REGISTER={"val": place})
    for _ in range(2):  # again it is the same
        code, out, err = eval_odinw(*words, "--output", "out", "--json", "ap.json", "--max-ap-difference", 1, *BOTH)
        assert code == 2 and len(err.splitlines()) == 1, err
        assert "1 of 3 data sets could not be evaluated: Empty: onnxruntime: none of the 3 pictures can be read" in err
        assert "failed" in out and "Photos" in out and "FAILED" in out
        report = json.loads((tmp_path / "ap.json").read_text())
        assert list(report["tasks"]) == ["Flying", "Photos"] and not report["passed"]
        assert list(report["not_evaluated"]) == ["Empty"]
        assert "none of the 3 pictures can be read" in report["not_evaluated"]["Empty"]
        assert report["average"]["onnxruntime"]["data_sets"] == 2
        assert any(note.startswith("not in the average, for it failed: Empty") for note in report["notes"])
    (tmp_path / "ap.json").unlink()
    code, _, err = eval_odinw("--config", root / "Empty.yaml", "--config", root / "Photos.yaml", *words[2:], "--strict")
    assert code == 2 and "without --strict" in err and "data sets could not" not in err
    code, _, err = eval_odinw("--config", root / "Empty.yaml", *words[2:], "--json", "ap.json")
    assert code == 2 and "none of the 3 pictures can be read" in err and not (tmp_path / "ap.json").exists()


def test_refusals_before_anything_runs(eval_odinw: Run, words, root: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, _, err = eval_odinw(*words, "--split", "test")
    assert code == 2 and "Flying.yaml: DATASETS.REGISTER has no 'test', but val" in err
    code, _, err = eval_odinw(*words, "--strict")
    assert code == 2 and "category_id 20 is no category's; without --strict it is left out and counted" in err
    code, _, err = eval_odinw(*words, "--json", root / "Photos.yaml")
    assert code == 2 and "Photos.yaml" in err
    assert yaml.safe_load((root / "Photos.yaml").read_text())["MODEL"] and not (tmp_path / "evaluation").exists()
    (root / "odinw" / "photos" / "valid" / "annotations.json").unlink()
    code, _, err = eval_odinw(*words)
    assert code == 2 and "no annotation file" in err and "the one that holds odinw/" in err
