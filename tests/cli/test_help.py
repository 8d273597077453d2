"""--help is instant, and the version is told."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest


@pytest.mark.parametrize(
    "command", [[], ["onnx"], ["trt"], ["verify"], ["detect"], ["info"], ["triton"], ["serve"], ["eval", "coco"]]
)
def test_help_is_instant(command: list[str]) -> None:
    def seconds() -> float:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "glip_export.cli", *command, "--help"], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0 and "Usage" in done.stdout
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 0.5 * 2  # 0.5 s; twice that beside another test on a busy core


def test_version(glip_export) -> None:
    code, out, _ = glip_export("--version")
    assert code == 0 and out.startswith("glip-export ")
