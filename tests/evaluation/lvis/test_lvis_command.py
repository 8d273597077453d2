"""glip-export eval lvis: what it prints and writes, goes on with after kill -9, scores from a file, and refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lvis_form import as_lvis
from waiting import wait_until

from glip_export.evaluation.rows import ROW

ORACLE = Path(__file__).parents[2] / "data" / "oracle" / "lvis_eval"
Run = Callable[..., tuple[int, str, str]]
NUMBERS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]


@pytest.fixture
def annotations(photos: tuple[Path, Path], tmp_path: Path) -> Path:
    return as_lvis(photos[0], tmp_path / "lvis.json")


@pytest.fixture
def words(photos: tuple[Path, Path], annotations: Path, tiny_bundle: Path) -> list[object]:
    """The pictures lie in the folder itself, though the addresses say val2017/."""
    return ["--images", photos[1], "--annotations", annotations, "--bundle", tiny_bundle, "--threads", 1]


def test_a_bundle_and_then_its_file_give_the_same(eval_lvis: Run, words, annotations: Path, tmp_path: Path) -> None:
    code, out, _ = eval_lvis(*words, "--chunk", 2, "--output", "out", "--json", "ap.json")
    assert code == 0 and "APr" in out and "coffee cup" in out
    assert "the bundle keeps 100 detections a caption, GLIP's numbers are of 300" in out
    report = json.loads((tmp_path / "ap.json").read_text())
    backend = report["backends"]["onnxruntime"]
    assert report["chunk"] == 2 and report["batch"] == 1
    assert backend["mode"] == "fixed"
    assert list(backend["scores"]) == [*NUMBERS, "AR@-1", "ARs@-1", "ARm@-1", "ARl@-1"]
    assert [each["frequency"] for each in backend["classes"]] == ["r", "c", "f"]
    assert any("300" in note for note in report["notes"])
    file = tmp_path / "out" / "onnxruntime" / "detections.json"
    assert backend["detections"] == len(json.loads(file.read_text())) > 200
    code, out, _ = eval_lvis("--annotations", annotations, "--detections", file, "--json", "again.json")
    assert code == 0 and "AP50" in out
    again = json.loads((tmp_path / "again.json").read_text())["backends"]["detections.json"]
    assert {key: again[key] for key in ("scores", "classes", "counted")} == {
        key: backend[key] for key in ("scores", "classes", "counted")
    }


def test_the_cap_is_the_originals(eval_lvis: Run, tmp_path: Path) -> None:
    """At 12 a category its own evaluator drops some; boxes by plain differences in float32, as it is given them."""
    stored = np.load(ORACLE / "detections.npz")
    found = []
    for image_id in stored["image_ids"].tolist():
        boxes, scores, labels = (stored[f"{image_id}_{name}"] for name in ("boxes", "scores", "labels"))
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        for box, score, label in zip(xywh.tolist(), scores.tolist(), labels.tolist(), strict=True):
            found.append({"image_id": image_id, "category_id": label, "bbox": box, "score": score})
    (tmp_path / "found.json").write_text(json.dumps(found))
    given = ["--annotations", ORACLE / "lvis_gt.json", "--detections", "found.json", "--most-a-category", 12]
    code, out, _ = eval_lvis(*given, "--json", "ap.json")
    assert code == 0 and "fixed AP, 12 best a category" in out
    backend = json.loads((tmp_path / "ap.json").read_text())["backends"]["found.json"]
    wanted = json.loads((ORACLE / "expected.json").read_text())["fixed_ap_top12"]
    expected = {name: None if value == -1 else value for name, value in wanted["results"].items()}
    assert backend["scores"] == expected and backend["counted"] == wanted["n_detections_after_caps"] < len(found)
    code, _, err = eval_lvis(*given, "--normal")
    assert code == 2 and "--most-a-category is for fixed AP" in err


def test_normal_ap_after_fixed_runs_nothing_again(eval_lvis: Run, words, tmp_path: Path, monkeypatch) -> None:
    assert eval_lvis(*words, "--output", "out", "--limit", 3)[0] == 0
    monkeypatch.setattr("glip_export.runtime.detector.Detector.open", None)
    code, out, _ = eval_lvis(*words, "--output", "out", "--limit", 3, "--normal", "--json", "ap.json")
    assert code == 0 and "300 best a picture" in out
    scores = json.loads((tmp_path / "ap.json").read_text())["backends"]["onnxruntime"]["scores"]
    assert list(scores) == [*NUMBERS, "AR@300", "ARs@300", "ARm@300", "ARl@300"]


def test_a_killed_run_goes_on_to_the_same_bytes(eval_lvis: Run, words, tmp_path: Path) -> None:
    assert eval_lvis(*words, "--output", "whole", "--json", "whole.json")[0] == 0
    command = [sys.executable, "-m", "glip_export.cli", "eval", "lvis", *map(str, words), "--output", "killed"]
    rows = tmp_path / "killed" / "onnxruntime" / "progress.rows"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: rows.exists() and rows.stat().st_size >= 200 * ROW.itemsize)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "onnxruntime" / "detections.json").exists()
    assert eval_lvis(*words, "--output", "killed", "--json", "killed.json")[0] == 0
    one, other = (tmp_path / name / "onnxruntime" for name in ("whole", "killed"))
    for name in ("detections.json", "progress.rows"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "killed"))
    for report in (first, second):
        report["backends"]["onnxruntime"].pop("seconds")
    assert first == second


def test_backends_are_compared_with_the_first(eval_lvis: Run, words) -> None:
    several = ["--backend", "torch", "--backend", "onnxruntime", "--limit", 3, "--max-ap-difference", "0.01"]
    code, out, _ = eval_lvis(*words, *several)
    assert code == 0 and "PASSED" in out and "- torch" in out


def test_broken_detections_are_counted_or_refused(eval_lvis: Run, annotations: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.json"
    good = {"image_id": 1, "category_id": 20, "bbox": [5, 5, 30, 30], "score": 0.9}
    file.write_text(json.dumps([good, {**good, "image_id": 99}, {**good, "score": None}]))
    scored = ["--annotations", annotations, "--detections", file]
    code, out, _ = eval_lvis(*scored, "--json", "ap.json")
    assert code == 0 and "detection: unknown picture" in out
    report = json.loads((tmp_path / "ap.json").read_text())
    assert report["problems"]["counts"] == {"detection: unknown picture": 1, "detection: broken entry": 1}
    assert report["backends"]["elsewhere.json"]["detections"] == 1
    code, _, err = eval_lvis(*scored, "--strict")
    assert code == 2 and "detection entry 2: image_id 99 is no picture's" in err


def test_a_file_of_another_data_set_is_refused(eval_lvis: Run, annotations: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    file.write_text(json.dumps([{"image_id": "1", "category_id": 20, "bbox": [5, 5, 30, 30], "score": 0.9}]))
    code, _, err = eval_lvis("--annotations", annotations, "--detections", file)
    assert code == 2 and len(err.splitlines()) == 1 and "image_id '1' is no picture's" in err
    file.write_text("[]")
    code, _, _ = eval_lvis("--annotations", annotations, "--detections", file, "--json", "ap.json")
    assert code == 0 and json.loads((tmp_path / "ap.json").read_text())["scores"]["AP"] == 0.0


def test_options_of_detecting_are_refused_beside_a_file(eval_lvis: Run, annotations: Path, tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text("[]")
    code, _, err = eval_lvis("--annotations", annotations, "--detections", "found.json", "--chunk", 40)
    assert code == 2 and "--chunk is for detecting" in err
    assert eval_lvis("--annotations", annotations, "--detections", "found.json", "--normal")[0] == 0


def test_a_coco_file_is_refused(eval_lvis: Run, photos: tuple[Path, Path], tiny_bundle: Path) -> None:
    code, _, err = eval_lvis("--images", photos[1], "--annotations", photos[0], "--bundle", tiny_bundle)
    assert code == 2 and "frequency is None, not r, c or f" in err


def test_two_workers_find_the_same(eval_lvis: Run, words, tmp_path: Path) -> None:
    for workers in (1, 2):
        given = ["--limit", 4, "--workers", workers, "--output", f"of{workers}"]
        assert eval_lvis(*words, *given)[0] == 0
    one, two = (tmp_path / f"of{workers}" / "onnxruntime" / "detections.json" for workers in (1, 2))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("mode", [[], ["--normal"]])
def test_kept_detections_come_to_the_same_without_what_was_left_out(
    eval_lvis: Run, words, annotations: Path, tmp_path: Path, mode: list[str]
) -> None:
    images = Path(shutil.copytree(words[1], tmp_path / "images"))
    next(images.glob("2.*")).unlink()
    words = [words[0], images, *words[2:]]
    assert eval_lvis(*words, *mode, "--output", "out", "--json", "ap.json")[0] == 0
    file = tmp_path / "out" / "onnxruntime" / "detections.json"
    assert json.loads(file.with_name("left_out.json").read_text()) == [2]
    code, out, _ = eval_lvis("--annotations", annotations, "--detections", file, *mode, "--json", "again.json")
    assert code == 0 and "1 picture(s) are not counted" in out
    one, other = (json.loads((tmp_path / name).read_text())["backends"] for name in ("ap.json", "again.json"))
    for key in ("scores", "classes", "counted", "pictures", "left_out", "detections"):
        assert one["onnxruntime"][key] == other["detections.json"][key], key
