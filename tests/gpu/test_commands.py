"""The command line and ONNX Runtime's providers on a machine with a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("needs_gpu")


def test_bench(engines: Any, engine_bundle: Path, flavor: str, environment: dict[str, str], tmp_path: Path) -> None:
    engines("fp16")
    report = tmp_path / "bench.json"
    words = ("--bundle", str(engine_bundle), "--backend", "onnxruntime", "--backend", f"{flavor}:fp16", "--no-cost")
    command = [sys.executable, "-m", "glip_export.bench.cli", *words, "--image-size", "320x320", "--json", str(report)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    _, run = json.loads(report.read_text())["runs"]
    assert run["precision"] == "fp16" and run["total"]["mean_ms"] > 0
    assert run["agreement"]["within_tolerance"]


def test_verify(engines: Any, engine_bundle: Path, library: str, environment: dict[str, str]) -> None:
    engines("fp32")
    backend = f"{'tensorrt' if library == 'stand-in' else library}:fp32"
    command = [sys.executable, "-m", "glip_export.cli", "verify", str(engine_bundle), "--backend", backend]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_auto_is_tensorrt(engines: Any, engine_bundle: Path, flavor: str) -> None:
    from glip_export import Detector

    engines("fp32")
    assert Detector.open(engine_bundle, backend="auto").session.name.startswith("tensorrt")


@pytest.mark.parametrize("word", ["cuda", "cuda:fp16", "tensorrt", "rtx"])
def test_onnxruntime_providers(gpu_bundle: Path, reference: Any, cases: list[Any], word: str) -> None:
    from glip_export.bundle import Bundle
    from glip_export.parity.ladder import climb
    from glip_export.parity.precision_check import compare_detections
    from glip_export.parity.recall import together
    from glip_export.parity.run import run
    from glip_export.runtime.backends import open_session
    from glip_export.runtime.onnxruntime_providers import usable_words

    if word not in usable_words():
        pytest.skip(f"this ONNX Runtime has no provider {word}")
    bundle = Bundle.open(gpu_bundle)
    session = open_session(bundle, f"onnxruntime:{word}")
    assert session.name == f"onnxruntime:{word}"
    if word != "cuda:fp16":
        assert climb(reference, session, bundle.config, cases[:2]).failures() == []
        return
    inputs = [case.inputs(bundle.config) for case in cases]
    found = together([compare_detections(run(reference, one), run(session, one)) for one in inputs])
    assert found.counted and found.within(), f"{found.found} of {found.counted}"


@pytest.mark.parametrize("word", ["cuda", "cuda:fp16"])
def test_onnxruntimes_own_cuda_graphs_change_nothing(gpu_bundle: Path, cases: list[Any], word: str) -> None:
    import numpy as np

    from glip_export.bundle import Bundle
    from glip_export.runtime.onnxruntime_providers import usable_words

    if word not in usable_words():
        pytest.skip(f"this ONNX Runtime has no provider {word}")
    from glip_export.runtime.onnxruntime_cuda_session import OnnxRuntimeCudaSession

    bundle = Bundle.open(gpu_bundle)
    plain, graphs = (OnnxRuntimeCudaSession(bundle, provider=word, cuda_graphs=kept) for kept in (0, 4))
    images = np.random.default_rng(0).standard_normal((1, 3, 256, 320), np.float32)
    for turn in range(4):
        batch = images * (turn + 1)
        for one, other in zip(graphs.vision_backbone(batch), plain.vision_backbone(batch), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-2 if word == "cuda:fp16" else 1e-4, err_msg=f"turn {turn}")
    print(graphs.describe())  # whether there were any, and if not, why
