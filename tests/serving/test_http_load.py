"""The load and fault programs of benchmarks/serving in short, each against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[2] / "benchmarks" / "serving"


def run(program: str, *words: object) -> str:
    command = [sys.executable, str(PROGRAMS / program), *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_malformed_requests_each_get_their_4xx(tiny_bundle: Path, tmp_path: Path) -> None:
    run("faults.py", "--bundle", tiny_bundle, "--threads", 1, "--requests", 120, "--json", tmp_path / "faults.json")
    report = json.loads((tmp_path / "faults.json").read_text())
    assert report["requests"] == 120 and len(report["kinds"]) > 40 and report["hung_up"] > 0
    assert set(report["statuses"]) >= {"400", "404", "405", "408", "413", "415"}
    assert report["good_requests"] >= 2 and report["good_requests_wrong"] == 0


@pytest.mark.slow
def test_overload(tiny_bundle: Path, tmp_path: Path) -> None:
    words = ["--seconds", 3, "--overload-seconds", 6, "--rate", 0.5, "--threads", 1, "--deadline-ms", 600_000]
    words += ["--option", "--max-queue 8 --max-pictures 8"]  # full at any speed
    run("load.py", "--bundle", tiny_bundle, *words, "--small", "--json", tmp_path / "load.json")
    (report,) = json.loads((tmp_path / "load.json").read_text())["runs"]
    overload = report["overload"]
    assert set(overload["statuses"]) == {"200", "429"} and overload["wrong"] == 0
    assert overload["compared"] == overload["statuses"]["200"] > 3
    assert overload["worst_box_px"] <= 0.02 and overload["worst_score"] <= 1e-4
