"""The tables of a GPU run, from its JSON files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPORT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "report.py"


def at(milliseconds: float) -> dict[str, float]:
    return {"p50": milliseconds, "p90": 1.1 * milliseconds}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One workload, one profile, and a part that failed."""
    agreement = {"found": 50, "clear": 50, "within": True}
    rows = {
        "published, fp32": {"total_ms": at(100), "pictures_per_second": 10.0, "agreement": agreement},
        "torch:cuda fp16": {
            "total_ms": at(8), "text_ms": at(1), "backbone_ms": at(3), "head_ms": at(4),
            "pictures_per_second": 125.0, "share_of_peak": 0.113, "agreement": agreement | {"within": False},
        },
        "onnxruntime:cuda fp32": {"skipped": "this ONNX Runtime has no CUDAExecutionProvider"},
        "Grounding DINO-T, fp32": {"failed": "OutOfMemoryError: [CUDA] out of memory"},
    }  # fmt: skip
    work = {"batch": 1, "prompt": "COCO", "tokens": 194, "size": [800, 1216]}
    part = {"status": "ok", "rehearsal": False, "card": "a card", "result": {"work": work, "rows": rows}}
    (tmp_path / "timings--batch-1-COCO.json").write_text(json.dumps(part))
    (tmp_path / "timings--compiled.json").write_text(json.dumps(part | {"status": "cut off", "result": None}))
    stage = {"elapsed_ms": 3.0, "launches": 500, "gaps": 0.25, "classes": {"softmax": {"ms": 1.0, "launches": 9}}}
    profile = {"status": "ok", "result": {"stages": {"head": stage}}}
    (tmp_path / "profile--stages-COCO.json").write_text(json.dumps(profile))
    return tmp_path


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "400"}  # no line is broken
    command = [sys.executable, str(REPORT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_markdown(results: Path) -> None:
    done = run(str(results), "--markdown")
    assert done.returncode == 0, done.stderr
    assert "800x1216, batch 1, COCO (T = 194); a card" in done.stdout
    wanted = "| torch:cuda fp16 | 8.00 | 8.80 | 1.00 | 3.00 | 4.00 | 125.0 | 12.50 | 11.3 % | 50/50, out of tolerance |"
    assert wanted in done.stdout.splitlines()
    assert "- onnxruntime:cuda fp32: skipped: this ONNX Runtime has no CUDAExecutionProvider" in done.stdout
    assert "stages-COCO, head: 3.00 ms, 500 launches, 25 % gaps; softmax 1.000 ms" in done.stdout


def test_the_terminal_shows_the_same(results: Path) -> None:
    done = run(str(results))
    assert done.returncode == 0 and "12.50" in done.stdout
    assert "Grounding DINO-T, fp32: failed: OutOfMemoryError: [CUDA] out of memory" in done.stdout


def test_a_plot(results: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert run(str(results), "--plot", str(results / "times.svg")).returncode == 0
    assert "torch:cuda fp16" in (results / "times.svg").read_text() or (results / "times.svg").stat().st_size > 1000


def test_a_folder_without_timings_is_refused(tmp_path: Path) -> None:
    done = run(str(tmp_path))
    assert done.returncode == 2 and "no timings" in done.stderr
