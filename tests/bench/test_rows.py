"""Several bundles in one run: which rows there are, and that each runs its own bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_bench_cli import bench

from glip_export.bench.job import precision_of
from glip_export.bench.measure import _of_baked
from glip_export.bench.rows import Row, rows_of
from glip_export.bench.stages import STAGES, account, count_calls
from glip_export.bench.timed_session import TimedSession
from glip_export.errors import GlipExportError


def test_every_backend_with_every_bundle_and_torch_once() -> None:
    first, second = Path("engines/glip"), Path("engines/glip-int8")
    assert rows_of([first, second], ["torch", "torch:trimmed", "openvino", "openvino:bf16"]) == (
        Row("torch", "torch", "engines/glip"),
        Row("torch:trimmed", "torch:trimmed", "engines/glip"),
        Row("openvino", "openvino", "engines/glip"),
        Row("openvino:bf16", "openvino:bf16", "engines/glip"),
        Row("openvino, glip-int8", "openvino", "engines/glip-int8"),
        Row("openvino:bf16, glip-int8", "openvino:bf16", "engines/glip-int8"),
    )
    with pytest.raises(GlipExportError, match="two bundles are called glip: "):
        rows_of([first, Path("other/glip")], ["openvino"])


def test_a_baked_model_runs_beside_its_bundle_where_one_runs() -> None:
    rows = rows_of([Path("engines/glip"), Path("coco.onnx")], ["torch", "openvino:bf16", "tensorrt"])
    assert rows[2:] == (
        Row("tensorrt", "tensorrt", "engines/glip"),
        Row("openvino:bf16, coco.onnx", "openvino:bf16", "coco.onnx"),
    )
    with pytest.raises(GlipExportError, match=r"coco.onnx is a baked model: name first the bundle"):
        rows_of([Path("coco.onnx")], ["openvino"])


def test_a_baked_graph_is_a_stage_of_its_own_and_counts_what_it_stands_for() -> None:
    boxes, scores = np.zeros((1, 3, 4), np.float32), np.zeros((1, 3), np.float32)
    found = (boxes, scores, np.zeros((1, 3), np.int64), np.zeros(1, np.int64))
    clock = iter([1.0, 3.0])
    session = TimedSession(SimpleNamespace(name="a stub", baked=lambda *_: found), lambda: next(clock))  # type: ignore[arg-type]
    assert session.baked(np.zeros((1, 3, 32, 32), np.float32)) is found
    assert len(session.detections) == 1 and session.detections[0].boxes.shape == (1, 3, 4)
    stages = account(0.5, 3.25, session.calls)
    assert stages == {**dict.fromkeys(STAGES, 0.0), "preprocess": 500.0, "baked": 2000.0, "postprocess": 250.0}
    assert count_calls(session.calls)["baked"] == 1 and "baked" not in account(0.0, 1.0, [])
    plain = {"text_encoder": 1.0, "vision_backbone": 10.0, "fusion_head": 100.0}
    assert _of_baked([None, plain]) == {**dict.fromkeys(plain, 0.0), "baked": 110.0} and _of_baked([None]) is None


def test_an_int8_bundle_is_int8_whatever_the_rest_of_it_is() -> None:
    assert precision_of("openvino:bf16", "bf16", "int8") == precision_of("onnxruntime", None, "int8") == "int8"
    assert precision_of("openvino:bf16", "fp32", "fp32") == "bf16"


def test_two_bundles_in_one_run(tiny_bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_bundle, other, ignore=shutil.ignore_patterns("cache"))
    words = ("--bundle", str(tiny_bundle), "--bundle", str(other), "--backend", "onnxruntime", "--prompt", "cat")
    result = bench(*words, "--image-size", "64x96", "--runs", "1", "--warmup", "0", "--no-cost",
                   "--json", str(tmp_path / "bench.json"))  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [run["backend"] for run in report["runs"]] == ["onnxruntime", "onnxruntime, other"]
    assert report["runs"][1]["max_box_diff_px"] == 0
    assert [bundle["folder"] for bundle in report["bundles"]] == [tiny_bundle.resolve().name, "other"]
    (other / "fusion_head.onnx").write_bytes(b"damaged")
    assert bench(*words, "--no-cost").returncode == 2
