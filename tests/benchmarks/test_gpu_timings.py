"""The steps of timings and of the profile in a rehearsal, on the small GLIP."""

from __future__ import annotations

import copy
import json
import os
import subprocess
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
import step_profile
import step_timings
from context import Context, run_part
from kernel_trace import Kernel, kernel_class, tables
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
    for module in (contestants, step_profile):
        monkeypatch.setattr(module, "config_of", lambda context: tiny_model.config)
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
        "torch:cuda fp16", "torch:cuda fp16, fused", "torch:cuda fp16, no CUDA graphs", "torch:cuda bf16",
        "torch:cuda fp32",
        "Grounding DINO-T, fp32", "Grounding DINO-T, fp16 autocast",
    }  # fmt: skip
    for name in rows.keys() - timed:
        assert name.startswith("onnxruntime:cuda") and rows[name]["skipped"]
    for name in timed:
        facts = rows[name]
        assert facts["runs"] == 3 and 0 < facts["total_ms"]["p50"] <= facts["total_ms"]["p90"]
        if facts["comparable"]:
            assert {"text_ms", "backbone_ms", "head_ms"} <= facts.keys()
            assert facts["agreement"]["paired"] > 0, name
            if facts["precision"] != "bf16":  # whose 8 bits are too few for the rule on random weights
                assert facts["agreement"]["real"] == 0, name
    assert rows["published, fp32"]["tokens"] == 64 > rows["folded, fp32"]["tokens"]
    assert rows["torch:cuda fp16"]["session"]["cuda_graphs"] and not any(
        rows["torch:cuda fp16, no CUDA graphs"]["session"]["cuda_graphs"].values()
    )


def test_a_row_that_does_not_open_is_recorded(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("a kernel\nis missing")

    monkeypatch.setattr(contestants.dino_row, "rows", broken)
    monkeypatch.setattr(step_timings, "BACKENDS", [row for row in step_timings.BACKENDS if row[0] == "torch:cuda fp32"])
    rows = run(context, "batch-1-4-names")["result"]["rows"]
    assert rows["Grounding DINO-T"] == {"failed": "RuntimeError: a kernel is missing"}
    assert rows["torch:cuda fp32"]["total_ms"]["p50"] > 0


def test_compiled_is_timed_beside_what_is_not(context: Context) -> None:
    rows = run(context, "compiled")["result"]["rows"]
    assert list(rows) == ["published, fp32", "torch:cuda fp16", "torch:cuda fp16, compiled"]
    assert all("total_ms" in facts for facts in rows.values())


def test_a_device_finds_every_operator_that_is_timed_alone() -> None:
    """In a process of its own: a rehearsal registers more than the steps do."""
    profile = "import step_profile, torch; operators = torch.ops.glip_export;"
    kernels = (
        "from pathlib import Path; from context import Context; import step_kernels;"
        "operators = step_kernels._operators(Context(Path('.')));"
    )
    for program in (profile, kernels):
        program += "print([hasattr(operators, name) for name in ('deform_im2col', 'dyconv', 'nms')])"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "[True, True, True]\n"


def test_engines_are_skipped_with_the_reason(context: Context) -> None:
    found = run(context, "engines")
    assert found["status"] == "skipped" and "tensorrt" in found["reason"]


def test_the_profile_has_every_stage_and_our_kernels(context: Context) -> None:
    for part, measure in step_profile.parts(context):
        found = run_part(context, "profile", part, measure)
        assert found["status"] == "ok", found["reason"]
    stages = json.loads(context.file("profile", "stages-4-names").read_text())["result"]["stages"]
    for stage in ("text", "backbone", "head"):
        of = stages[stage]
        assert of["launches"] > 100 and 0 < of["busy_ms"] <= of["elapsed_ms"] and 0 <= of["gaps"] < 1
        assert sum(each["launches"] for each in of["classes"].values()) == pytest.approx(of["launches"], abs=0.1)
    assert stages["head"]["classes"]["ours: im2col"]["launches"] > 0
    levels = json.loads(context.file("profile", "deform-conv").read_text())["result"]["levels"]
    assert levels.keys() >= {f"P{level} stride 1 float16" for level in range(3, 8)}


def test_gaps_are_what_no_kernel_covers() -> None:
    runs = [[Kernel("gemm", 0, 40), Kernel("softmax", 30, 50), Kernel("gemm", 80, 100)]] * 2
    found = tables(runs)
    assert (found["elapsed_ms"], found["busy_ms"], found["gaps"], found["launches"]) == (0.1, 0.07, 0.3, 3)
    assert found["classes"]["products and convolutions"] == {"ms": pytest.approx(0.06), "launches": 2}
    assert [each["name"] for each in found["top"]] == ["gemm", "softmax"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64", "products and convolutions"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", "products and convolutions"),
        ("glip_deform_im2col_f16", "ours: im2col"),
        ("glip_dyconv_convolve_f16", "ours: DyConv"),
        ("glip_image_reads_f16_256_pair", "ours: bi-attention"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::Half>>", "elementwise"),
        ("void (anonymous namespace)::softmax_warp_forward<float, float, float, 8>", "softmax"),
        ("void at::native::vectorized_layer_norm_kernel<c10::Half, float>", "norms"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
    ],
)
def test_kernels_are_told_apart_by_name(name: str, expected: str) -> None:
    assert kernel_class(name) == expected
