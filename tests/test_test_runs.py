"""What a test run does with a test that crashes or does not end, under this project's own pytest settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = Path(__file__).parents[1] / "pyproject.toml"
CRASHES = "import os, signal\ndef test_crashes(): os.kill(os.getpid(), signal.SIGKILL)\n"
HANGS = "import ctypes\ndef test_hangs(): ctypes.PyDLL(None).sleep(100_000)\n"  # holds the interpreter
PASSES = "import pytest\n@pytest.mark.parametrize('number', range(8))\ndef test_passes(number): pass\n"


def run_tests(folder: Path, *options: str) -> tuple[int, str]:
    """pytest's exit code and output on the folder's tests, with two workers like `make test`."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider"]
    command += ["-c", str(SETTINGS), "--rootdir", str(folder), "-o", "pythonpath=", *options, str(folder)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)
    return done.returncode, done.stdout


def write_tests(folder: Path, culprit: str) -> None:
    """The culprit among other tests of its own file and of others."""
    for name in "abc":
        (folder / f"test_{name}.py").write_text(PASSES)
    (folder / "test_culprit.py").write_text(PASSES + culprit + "def test_after(): pass\n")


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_crashed_worker_ends_the_run_with_the_name_of_its_test(tmp_path: Path) -> None:
    write_tests(tmp_path, CRASHES)
    code, output = run_tests(tmp_path)
    assert code == 1
    assert "crashed while running 'test_culprit.py::test_crashes'" in output, output


@pytest.mark.skipif(sys.platform == "win32", reason="has no sleep in its C library")
def test_a_test_that_hangs_in_native_code_ends_the_run_with_its_name_and_stack(tmp_path: Path) -> None:
    write_tests(tmp_path, HANGS)
    code, output = run_tests(tmp_path, "-o", "faulthandler_timeout=5")
    assert code == 1
    assert "crashed while running 'test_culprit.py::test_hangs'" in output, output
    assert "in test_hangs" in output, output  # its line of the stack


def test_every_test_has_a_time_limit(pytestconfig: pytest.Config) -> None:
    assert float(pytestconfig.getini("faulthandler_timeout")) >= 300
    assert pytestconfig.getini("faulthandler_exit_on_timeout") is True
