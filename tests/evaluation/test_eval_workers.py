"""--workers: several processes find what one finds, in the same order, and their faults are told on one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from answers import Answers, write_set
from waiting import wait_until

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

from glip_export.config import GlipConfig
from glip_export.errors import BackendError, GlipExportError
from glip_export.evaluation import CocoDataset, evaluate_coco
from glip_export.processes import shares_cores

XYXY = (10, 20, 109, 119)


class Killed(Answers):
    """Ends its process at picture 5, as the kernel does where memory is short."""

    def detect(self, pictures, prompt, chunk=None):
        if 5 in [int(picture[0, 0, 0]) for picture in pictures]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().detect(pictures, prompt, chunk)


class Failing(Answers):
    """Raises what a backend may, at picture 5."""

    def detect(self, pictures, prompt, chunk=None):
        if 5 in [int(picture[0, 0, 0]) for picture in pictures]:
            raise BackendError("no memory for picture 5")
        return super().detect(pictures, prompt, chunk)


class Sharing(Answers):
    """Answers with a score of 0.75 where its process knows that it shares the cores, else 0.25."""

    def detect(self, pictures, prompt, chunk=None):
        score = 0.75 if shares_cores() and os.environ["OMP_WAIT_POLICY"] == "PASSIVE" else 0.25
        self.found = {image: [(0, score, XYXY)] for image in self.found}
        return super().detect(pictures, prompt, chunk)


def opener(kind: type[Answers]) -> Answers:
    return kind({image: [(0, 0.5 + image / 100, XYXY)] for image in range(1, 9)})


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    sizes = dict.fromkeys(range(1, 9), (200, 200))
    return CocoDataset.read(*write_set(tmp_path, sizes, [(image, 1, (10, 20, 100, 100)) for image in sizes]))


def test_several_workers_find_what_one_finds(dataset: CocoDataset) -> None:
    dataset.images[3].path.unlink()
    one, two = (
        evaluate_coco(partial(opener, Answers), dataset, batch=2, workers=workers, config=GlipConfig())
        for workers in (1, 2)
    )
    assert one.detections == two.detections and len(one.detections) == 7
    assert (one.scores, one.problems, one.pictures) == (two.scores, two.problems, two.pictures)


@pytest.mark.parametrize(("kind", "words"), [(Killed, "a worker process ended"), (Failing, "no memory for picture 5")])
def test_the_end_of_a_worker(dataset: CocoDataset, kind: type[Answers], words: str) -> None:
    with pytest.raises(BackendError, match=words):
        evaluate_coco(partial(opener, kind), dataset, batch=2, workers=2, config=GlipConfig())


def test_strict_ends_at_the_same_picture(dataset: CocoDataset) -> None:
    dataset.images[3].path.unlink()
    for workers in (1, 2):
        with pytest.raises(GlipExportError, match="picture 4"):
            evaluate_coco(partial(opener, Answers), dataset, batch=2, workers=workers, strict=True, config=GlipConfig())


def test_an_open_detector_is_for_one_worker(dataset: CocoDataset) -> None:
    with pytest.raises(GlipExportError, match="a function that opens a detector"):
        evaluate_coco(opener(Answers), dataset, workers=2)


def test_the_command_with_workers(eval_coco, photos, tiny_bundle: Path, tmp_path: Path) -> None:
    """Without --threads too: each has as many as one alone, for results depend on them to the last digit."""
    words = ["--images", photos[1], "--annotations", photos[0], "--bundle", tiny_bundle, "--batch", 2]
    for workers in (1, 2):
        result = eval_coco(*words, "--workers", workers, "--output", f"of-{workers}", "--json", f"{workers}.json")
        assert result[0] == 0, result
    kept = [tmp_path / f"of-{workers}" / "onnxruntime" / "detections.json" for workers in (1, 2)]
    assert kept[0].read_bytes() == kept[1].read_bytes() and len(json.loads(kept[0].read_text())) > 200
    one, two = (json.loads((tmp_path / f"{workers}.json").read_text()) for workers in (1, 2))
    for report in (one, two):
        del report["backends"]["onnxruntime"]["seconds"]
    assert one == two


def test_scoring_what_a_run_kept(eval_coco, photos, tiny_bundle: Path, tmp_path: Path) -> None:
    words = ["--annotations", photos[0], "--json", "ap.json"]
    run = ["--images", photos[1], "--bundle", tiny_bundle, "--threads", 1, "--output", "out"]
    assert eval_coco(*words, *run)[0] == 0
    own = json.loads((tmp_path / "ap.json").read_text())
    kept = tmp_path / "out" / "onnxruntime" / "detections.json"
    code, out, _ = eval_coco(*words, "--detections", kept)
    assert code == 0 and "AP50" in out
    scored = json.loads((tmp_path / "ap.json").read_text())
    (one,), (other,) = own["backends"].values(), scored["backends"].values()
    assert one["scores"] == other["scores"] and one["classes"] == other["classes"]
    assert other["detections"] == one["detections"] > 200 and other["scores"]["APl"] == other["scores"]["AP_large"]

    entries = json.loads(kept.read_text())
    entries[0]["score"] = float("nan")
    entries[1]["image_id"] = 99
    (tmp_path / "broken.json").write_text(json.dumps(entries))
    code, out, _ = eval_coco(*words, "--detections", "broken.json")
    assert code == 0 and "detection: unknown picture" in out
    assert json.loads((tmp_path / "ap.json").read_text())["problems"]["counts"] == {
        "detection: broken entry": 1,
        "detection: unknown picture": 1,
    }
    assert eval_coco(*words, "--detections", "broken.json", "--strict")[0] == 2
    code, _, err = eval_coco(*words, "--detections", kept, "--backend", "torch")
    assert code == 2 and "--backend is for detecting" in err
    code, _, err = eval_coco(*words, "--bundle", tiny_bundle)
    assert code == 2 and "--images" in err and len(err.splitlines()) == 1
    limited = eval_coco(*words, "--detections", kept, "--limit", 2)
    assert limited[0] == 0 and json.loads((tmp_path / "ap.json").read_text())["problems"]["counts"] == {}
    assert np.isfinite(other["scores"]["AP"])


def test_a_worker_knows_that_cores_are_shared(dataset: CocoDataset) -> None:
    assert not shares_cores()
    found = evaluate_coco(partial(opener, Sharing), dataset, batch=2, workers=2, config=GlipConfig())
    assert {result["score"] for result in found.detections} == {0.75} and not shares_cores()


def test_ctrl_c_ends_workers_without_a_traceback(tiny_bundle: Path, photos, tmp_path: Path) -> None:
    """Sent to the whole group, as a terminal does, while workers start."""
    words = ["--images", photos[1], "--annotations", photos[0], "--bundle", tiny_bundle, "--batch", 1, "--workers", 2]
    # A shell starts what it runs in the background with Ctrl-C ignored, which Python then leaves so.
    heeding = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    heeding += "runpy.run_module('glip_export.cli', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", heeding, "eval", "coco", *map(str, words), "--output", "out"]
    journal = tmp_path / "out" / "onnxruntime" / "progress.jsonl"
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        wait_until(lambda: journal.exists() or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate()
    assert process.returncode == 130 and "Traceback" not in out and "KeyboardInterrupt" not in out, out
