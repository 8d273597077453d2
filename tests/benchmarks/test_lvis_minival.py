"""benchmarks/lvis_minival.py: a small one, drawn, written, scored in a process of its own, and removed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lvis_minival.py"


@pytest.mark.parametrize("mode", ["fixed", "normal"])
def test_a_small_set_is_scored_and_removed(tmp_path: Path, mode: str) -> None:
    command = [sys.executable, str(SCRIPT), "--pictures", "12", "--a-picture", "400", "--folder", str(tmp_path)]
    ran = subprocess.run(
        [*command, *(["--normal"] if mode == "normal" else [])], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    assert (figures["pictures"], figures["names"], figures["detections"]) == (12, 1203, 4800)
    assert figures["mode"] == mode
    assert 0.3 < figures["found"]["AP"] < 0.9  # drawn near the objects, best first: neither nothing nor all is found
    assert figures["scoring_seconds"] > 0 and figures["scoring_peak_mb"] > 30
    assert not list(tmp_path.iterdir())
