"""The steps of timings and of the profile in a rehearsal, on the small GLIP."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import use_host_kernels

from glip_export import Bundle
from glip_export.model.glip import Glip

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

import contestants
import step_timings
from context import Context, run_part
from runtime.cuda.fake_driver import FakeDriver


@pytest.fixture
def context(
    tiny_model: Glip, tiny_bundle: Path, host: HostKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Context:
    """A rehearsal with the oracle's GLIP in the place of the random one."""
    use_host_kernels(host)
    driver = FakeDriver()
    for module in ("context", "contestants"):
        monkeypatch.setattr(f"{module}.fake_driver", lambda: driver)
    monkeypatch.setattr(contestants, "config_of", lambda context: tiny_model.config)
    monkeypatch.setattr(contestants, "glip_model", lambda context: copy.deepcopy(tiny_model))
    monkeypatch.setattr(contestants, "glip_bundle", lambda context: Bundle.open(tiny_bundle))
    return Context(tmp_path, rehearsal=True)


def run(context: Context, part: str) -> dict[str, Any]:
    """One part's JSON, as it was written."""
    run_part(context, "timings", part, dict(step_timings.parts(context))[part])
    return json.loads(context.file("timings", part).read_text())


def test_every_row_runs_or_says_why_not(context: Context) -> None:
    found = run(context, "batch-1-4-names")
    assert found["status"] == "ok", found["reason"]
    rows = found["result"]["rows"]
    timed = {name for name, facts in rows.items() if "total_ms" in facts}
    assert timed >= {
        "published, fp32", "published, TF32", "published, fp16 autocast", "folded, fp32", "folded, fp16 autocast",
        "torch:cuda fp16", "torch:cuda fp16, no CUDA graphs", "torch:cuda bf16", "torch:cuda fp32",
        "Grounding DINO-T, fp32", "Grounding DINO-T, fp16 autocast",
    }  # fmt: skip
    for name in rows.keys() - timed:
        assert name.startswith("onnxruntime:cuda") and rows[name]["skipped"]
    for name in timed:
        facts = rows[name]
        assert facts["runs"] == 3 and 0 < facts["total_ms"]["p50"] <= facts["total_ms"]["p90"]
        if facts["comparable"]:
            assert {"text_ms", "backbone_ms", "head_ms"} <= facts.keys()
            assert facts["agreement"]["paired"] > 0 and facts["agreement"]["real"] == 0, name
    assert rows["published, fp32"]["tokens"] == 64 > rows["folded, fp32"]["tokens"]
    assert rows["torch:cuda fp16"]["session"]["cuda_graphs"] and not any(
        rows["torch:cuda fp16, no CUDA graphs"]["session"]["cuda_graphs"].values()
    )


def test_a_row_that_does_not_open_is_recorded(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("a kernel\nis missing")

    monkeypatch.setattr(contestants.dino_row, "rows", broken)
    monkeypatch.setattr(step_timings, "BACKENDS", step_timings.BACKENDS[3:4])
    rows = run(context, "batch-1-4-names")["result"]["rows"]
    assert rows["Grounding DINO-T"] == {"failed": "RuntimeError: a kernel is missing"}
    assert rows["torch:cuda fp32"]["total_ms"]["p50"] > 0


def test_compiled_is_timed_beside_what_is_not(context: Context) -> None:
    rows = run(context, "compiled")["result"]["rows"]
    assert list(rows) == ["published, fp32", "torch:cuda fp16", "torch:cuda fp16, compiled"]
    assert all("total_ms" in facts for facts in rows.values())


def test_engines_are_skipped_with_the_reason(context: Context) -> None:
    found = run(context, "engines")
    assert found["status"] == "skipped" and "tensorrt" in found["reason"]
