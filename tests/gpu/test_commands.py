"""The command line and ONNX Runtime's providers on a machine with a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def test_bench(engines: Any, gpu_bundle: Path, flavor: str, tmp_path: Path) -> None:
    engines("fp16")
    report = tmp_path / "bench.json"
    words = ("--bundle", str(gpu_bundle), "--backend", "onnxruntime", "--backend", f"{flavor}:fp16", "--no-cost")
    command = [sys.executable, "-m", "glip_export.bench.cli", *words, "--image-size", "320x320", "--json", str(report)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, run = json.loads(report.read_text())["runs"]
    assert run["precision"] == "fp16" and run["total"]["mean_ms"] > 0
    assert run["agreement"]["within_tolerance"]


def test_verify(engines: Any, gpu_bundle: Path, flavor: str) -> None:
    engines("fp32")
    command = [sys.executable, "-m", "glip_export.cli", "verify", str(gpu_bundle), "--backend", f"{flavor}:fp32"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_auto_is_tensorrt(engines: Any, gpu_bundle: Path, flavor: str) -> None:
    from glip_export import Detector

    engines("fp32")
    assert Detector.open(gpu_bundle, backend="auto").session.name.startswith("tensorrt")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "rtx"])
def test_onnxruntime_providers(gpu_bundle: Path, reference: Any, cases: list[Any], provider: str) -> None:
    from glip_export.bundle import Bundle
    from glip_export.parity.ladder import climb
    from glip_export.runtime.onnxruntime_providers import usable_providers
    from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession

    if provider not in usable_providers():
        pytest.skip(f"this ONNX Runtime has no provider {provider}")
    bundle = Bundle.open(gpu_bundle)
    session = OnnxRuntimeSession(bundle, provider=provider)
    assert session.name == f"onnxruntime:{provider}"
    assert climb(reference, session, bundle.config, cases[:2]).failures() == []
