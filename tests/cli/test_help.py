"""--help is instant, and the version is told."""

from __future__ import annotations

import subprocess
import sys

import pytest
from waiting import cpu_seconds, least


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["onnx"],
        ["trt"],
        ["verify"],
        ["detect"],
        ["info"],
        ["triton"],
        ["serve"],
        ["eval", "coco"],
        ["eval", "odinw"],
    ],
)
def test_help_is_instant(command: list[str]) -> None:
    """In processor time, against Python with the libraries that print it; torch alone takes ten times that."""
    words = [sys.executable, "-m", "glip_export.cli", *command, "--help"]
    assert "Usage" in subprocess.run(words, check=True, capture_output=True, text=True).stdout
    plain = (sys.executable, "-c", "import typer, rich.console, rich.panel")
    assert least(lambda: cpu_seconds(*words), lambda: cpu_seconds(*plain), rounds=3) < 4


def test_version(glip_export) -> None:
    code, out, _ = glip_export("--version")
    assert code == 0 and out.startswith("glip-export ")
