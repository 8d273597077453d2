"""A Detector that was used before a fork, and one that is opened after it."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

CAT = Path(__file__).parents[2] / "glip_export" / "data" / "pictures" / "cat.jpg"
SCRIPT = """
import multiprocessing, sys
from glip_export import Detector

bundle, backend, picture = sys.argv[1:]

def found(detector):
    return len(detector.detect([picture], "cat")[0])

detector = Detector.open(bundle, backend, threads=2)
here = found(detector)

def inherited(number):
    return found(detector)

def opened(number):
    return found(Detector.open(bundle, backend, threads=2))

with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.map(inherited, range(2)) + pool.map(opened, range(1)) == [here] * 3)
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_fork_torch_detects_in_a_forked_worker(tiny_bundle: Path, backend: str) -> None:
    words = [sys.executable, "-W", "default", "-c", SCRIPT, str(tiny_bundle), backend, str(CAT)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "True\n", done.stderr
    assert done.stderr.count("forked after torch was loaded") == (backend == "torch")
