"""The GPU run's frame: budgets, parts that fail or are cut off, and going on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

GPU = Path(__file__).parents[2] / "benchmarks" / "gpu"
FAKE = """
import os, time
from pathlib import Path
from context import SkippedError

NOTES = Path(os.environ["NOTES"])


def parts(context):
    if (NOTES.parent / "hangs-parts").exists():
        time.sleep(3600)
    return [(name, lambda name=name: measure(name)) for name in ("one", "two", "three", "four")]


def measure(name):
    with open(NOTES, "a") as file:
        file.write(name + " ")
    if (NOTES.parent / f"hangs-{name}").exists():
        time.sleep(3600)
    if (NOTES.parent / f"dies-{name}").exists():
        os._exit(7)
    if (NOTES.parent / f"fails-{name}").exists():
        raise ValueError("no such kernel")
    if (NOTES.parent / f"skips-{name}").exists():
        raise SkippedError("no such library here")
    return {"line": "all is well", "values": list(range(20000))}
"""


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the frame with one fake step in the place of `environment`."""
    folder = tmp_path / "benchmarks" / "gpu"
    folder.mkdir(parents=True)
    (folder / "run.py").write_text((GPU / "run.py").read_text())
    root = f"ROOT = Path({str(GPU.parents[1])!r})"
    text = (GPU / "context.py").read_text().replace("ROOT = Path(__file__).resolve().parents[2]", root)
    assert root in text
    (folder / "context.py").write_text(text)
    (folder / "step_environment.py").write_text(FAKE)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return folder


def command(gpu: Path, *words: str) -> list[str]:
    words = words or ("--minutes", "5")
    return [sys.executable, str(gpu / "run.py"), "--rehearse", "--only", "environment", *words, *output(gpu)]


def output(gpu: Path) -> tuple[str, str]:
    return "--output", str(gpu / "results")


def run(gpu: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(gpu, *words), capture_output=True, text=True, check=False)


def results(gpu: Path) -> dict[str, dict[str, Any]]:
    """Every JSON that is there, all of them whole; what a write left unfinished has another name."""
    paths = [path for path in (gpu / "results").glob("*.json") if ".partial-" not in path.name]
    return {path.stem.partition("--")[2]: json.loads(path.read_text()) for path in paths}


def notes(gpu: Path) -> list[str]:
    path = gpu.parents[1] / "notes"
    return path.read_text().split() if path.exists() else []


def say(gpu: Path, what: str, on: bool = True) -> None:
    path = gpu.parents[1] / what
    path.touch() if on else path.unlink()


def test_all_parts_leave_their_json(gpu: Path) -> None:
    say(gpu, "skips-two")
    done = run(gpu)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(gpu)
    assert {name: one["status"] for name, one in found.items()} == {
        "one": "ok", "two": "skipped", "three": "ok", "four": "ok",
    }  # fmt: skip
    assert found["two"]["reason"] == "no such library here" and "no such library here" in done.stdout
    for one in found.values():
        assert one["rehearsal"] is True and one["card"] and one["versions"]["torch"] and one["step"] == "environment"
    assert run(gpu).returncode == 0
    assert notes(gpu) == ["one", "two", "three", "four", "two"], "only what was skipped is tried again"


def test_a_part_that_fails_is_told_and_tried_again(gpu: Path) -> None:
    say(gpu, "fails-two")
    done = run(gpu)
    assert done.returncode == 1
    assert results(gpu)["two"]["reason"].startswith("ValueError: no such kernel (step_environment.py:")
    assert results(gpu)["four"]["status"] == "ok"
    say(gpu, "fails-two", on=False)
    assert run(gpu).returncode == 0
    assert notes(gpu) == ["one", "two", "three", "four", "two"]


def test_a_process_that_dies_is_told(gpu: Path) -> None:
    say(gpu, "dies-three")
    done = run(gpu)
    assert done.returncode == 1 and "its process ended with 7" in results(gpu)["process"]["reason"]
    assert results(gpu)["three"]["status"] == "cut off" and "four" not in results(gpu)
    say(gpu, "dies-three", on=False)
    assert run(gpu).returncode == 0
    assert {one["status"] for one in results(gpu).values()} == {"ok"} and len(results(gpu)) == 4


def test_a_part_that_hangs_ends_with_the_budget(gpu: Path) -> None:
    say(gpu, "hangs-two")
    assert run(gpu, "--minutes", "0.1").returncode == 1
    assert results(gpu)["two"]["status"] == "cut off" and results(gpu)["one"]["status"] == "ok"


def test_a_step_whose_parts_hang_is_told(gpu: Path) -> None:
    say(gpu, "hangs-parts")
    assert run(gpu, "--minutes", "0.1").returncode == 1
    assert results(gpu)["process"]["status"] == "cut off" and "no part" in results(gpu)["process"]["reason"]
    say(gpu, "hangs-parts", on=False)
    assert run(gpu).returncode == 0 and "process" not in results(gpu)


@pytest.mark.parametrize("seed", range(3))
def test_cut_off_at_any_moment_it_goes_on(gpu: Path, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        before = len(notes(gpu))
        process = subprocess.Popen(
            command(gpu), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_until(lambda before=before, process=process: len(notes(gpu)) > before or process.poll() is not None)
        time.sleep(chance.random() * 0.05)  # any moment will do
        kill_all(gpu, process)
        for one in results(gpu).values():
            assert one["status"] in ("ok", "cut off")
    assert run(gpu).returncode == 0
    assert {name: one["status"] for name, one in results(gpu).items()} == dict.fromkeys(
        ("one", "two", "three", "four"), "ok"
    )


def kill_all(gpu: Path, process: subprocess.Popen[bytes]) -> None:
    """The run and its step's process, as a machine that is taken away would."""
    for number in running(gpu):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


def running(gpu: Path) -> list[int]:
    """The numbers of the run's processes."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(gpu / "run.py").encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


def test_a_run_that_is_ended_ends_its_step(gpu: Path) -> None:
    say(gpu, "hangs-one")
    process = subprocess.Popen(command(gpu), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: bool(notes(gpu)))
    process.terminate()
    process.wait()
    wait_until(lambda: not running(gpu))
    assert results(gpu)["one"]["status"] == "cut off"


def test_a_rehearsals_results_are_not_the_real_runs(gpu: Path) -> None:
    assert run(gpu).returncode == 0
    words = [word for word in command(gpu) if word != "--rehearse"]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    assert notes(gpu) == ["one", "two", "three", "four"] * 2
    assert {one["rehearsal"] for one in results(gpu).values()} == {False}


def test_a_step_that_is_not_there_is_refused(gpu: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(gpu / "run.py"), "--only", "dance", *output(gpu)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "no step dance" in done.stderr
