"""--help is instant, and the version is told."""

from __future__ import annotations

import subprocess
import sys

import pytest
from waiting import cpu_seconds, least

PLAIN = "import typer, pathlib\ndef main(path: pathlib.Path, number: int = 1): ...\ntyper.run(main)"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["onnx"],
        ["quantize"],
        ["bake"],
        ["trt"],
        ["verify"],
        ["detect"],
        ["info"],
        ["triton"],
        ["serve"],
        ["label"],
        ["eval", "coco"],
        ["eval", "odinw"],
    ],
)
def test_help_is_instant(command: list[str]) -> None:
    """In processor time, against the --help of a program with one option; torch alone takes several times that."""
    words = [sys.executable, "-m", "glip_export.cli", *command, "--help"]
    assert "Usage" in subprocess.run(words, check=True, capture_output=True, text=True).stdout
    plain = (sys.executable, "-c", PLAIN, "--help")
    assert least(lambda: cpu_seconds(*words), lambda: cpu_seconds(*plain), rounds=3) < 2.7


def test_version(glip_export) -> None:
    code, out, _ = glip_export("--version")
    assert code == 0 and out.startswith("glip-export ")
