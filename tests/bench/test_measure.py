"""Backends take turns; the report has every promised field; no number is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glip_export.bench.job import Job
from glip_export.bench.measure import Measurement, count_work, measure
from glip_export.bench.plot import plot_stages
from glip_export.bench.report import make_report
from glip_export.bench.stages import STAGES
from glip_export.bench.table import costs_table, milliseconds, times_table
from glip_export.bundle import Bundle
from glip_export.errors import BackendError

JOB = Job("bundle", ("cat", "rocket"), (64, 96), batch=2, threads=2)
SPEED = {"torch": 400.0, "onnxruntime": 100.0, "openvino:bf16": 50.0}  # ms a run
SIZES = [
    {"graph": "vision_backbone", "batch": 2, "tokens": 0, "classes": 0, "calls": 1},
    {"graph": "text_encoder", "batch": 1, "tokens": 5, "classes": 0, "calls": 1},
    {"graph": "fusion_head", "batch": 2, "tokens": 5, "classes": 2, "calls": 1},
]
RUN_FIELDS = {
    "backend", "precision", "batch", "image_size", "tokens", "classes", "stages", "total", "images_per_second",
    "gmac_per_image", "share_of_peak", "peak_rss_mb", "load_s", "speedup_vs_torch_plain", "max_box_diff_px",
    "max_score_diff", "rounds",
}  # fmt: skip


class FakeRunner:
    """Every run takes its backend's time; the order of all calls is kept in `log`."""

    def __init__(self, backend: str, log: list[str], wrong: bool = False) -> None:
        self.backend, self.log, self.wrong = backend, log, wrong

    def load(self, job: Job, backend: str) -> dict[str, Any]:
        self.log.append(f"load {backend}")
        return {"load_s": 1.5, "precision": "bf16" if backend.endswith("bf16") else "fp32"}

    def run(self) -> dict[str, Any]:
        self.log.append(f"run {self.backend}")
        total = SPEED[self.backend]
        stages = dict(zip(STAGES, (0.1 * total, 0.1 * total, 0.3 * total, 0.4 * total, 0.1 * total), strict=True))
        return {"total_ms": total, "stages": stages, "calls": dict.fromkeys(STAGES, 1)}

    def outcome(self) -> dict[str, Any]:
        boxes = np.array([[[0, 0, 10, 10], [20, 20, 40, 40.0]]] * 2) + (7 if self.wrong else 0)
        detections = {"boxes": boxes.tolist(), "scores": [[0.9, 0.5]] * 2, "labels": [[0, 1]] * 2}
        return {"peak_rss_mb": 900.0, "load_peak_rss_mb": 500.0, "sizes": SIZES, "detections": [detections]}

    def count_with_torch(self) -> float:
        self.log.append(f"count {self.backend}")
        return 600.0

    def close(self) -> None:
        self.log.append(f"close {self.backend}")


def measured(*backends: str, runs: int = 3, wrong: str = "") -> tuple[list[Measurement], list[str]]:
    log: list[str] = []
    found = measure(
        JOB, backends, runs, warmup=1, open_runner=lambda backend: FakeRunner(backend, log, backend == wrong)
    )
    return found, log


def report_of(bundle: Path, *backends: str, wrong: str = "") -> dict[str, Any]:
    measurements, _ = measured(*backends, wrong=wrong)
    graphs = {"text_encoder": 0.5, "vision_backbone": 2.0, "fusion_head": 1.5}
    work = [None if m.backend == "torch" else graphs for m in measurements]
    peak = {"fp32": 100.0, "fp32_by": "numpy", "bf16": 400.0, "bf16_by": "torch", "not_measured": {}}
    peak |= {"int8": 800.0, "int8_by": "torch"}
    return make_report(JOB, Bundle.open(bundle, verify=False), measurements, work, peak)


def test_backends_take_turns() -> None:
    measurements, log = measured("onnxruntime", "openvino:bf16", runs=2)
    turns = ["run onnxruntime", "run openvino:bf16"] * 3  # one warm-up, two timed
    loads = ["load onnxruntime", "load openvino:bf16"]
    assert log == [*loads, *turns, "close openvino:bf16", "close onnxruntime"]
    assert [len(measurement.runs) for measurement in measurements] == [2, 2]


def test_only_torch_counts_its_own_work_after_the_timed_runs() -> None:
    measurements, log = measured("torch", "onnxruntime")
    assert log.index("count torch") > max(index for index, line in enumerate(log) if line.startswith("run"))
    assert [measurement.gmac_per_image for measurement in measurements] == [600.0, None]


def test_every_worker_is_closed_when_one_fails() -> None:
    log: list[str] = []

    class Failing(FakeRunner):
        def load(self, job: Job, backend: str) -> dict[str, Any]:
            raise BackendError("not here")

    def open_runner(backend: str) -> FakeRunner:
        return (Failing if backend == "torch" else FakeRunner)(backend, log)

    with pytest.raises(BackendError, match="not here"):
        measure(JOB, ["onnxruntime", "torch"], 1, 0, open_runner=open_runner)
    assert log == ["load onnxruntime", "close torch", "close onnxruntime"]


def test_work_counts_batch_and_calls_and_each_size_once() -> None:
    asked: list[tuple[Any, ...]] = []

    class Counter:
        def __enter__(self) -> Counter:
            return self

        def __exit__(self, *_: object) -> None: ...

        def ask(self, do: str, **arguments: Any) -> float:
            asked.append((do, arguments["graph"], arguments["tokens"], arguments["classes"]))
            return {"text_encoder": 1.0, "vision_backbone": 10.0, "fusion_head": 100.0}[arguments["graph"]]

    measurements, _ = measured("onnxruntime", "torch", "openvino:bf16")
    measurements[2].outcome["sizes"] = [{**SIZES[2], "calls": 3}]
    work = count_work(JOB, measurements, worker=Counter())  # type: ignore[arg-type]
    assert work == [
        {"text_encoder": 1.0, "vision_backbone": 20.0, "fusion_head": 200.0},
        None,
        {"text_encoder": 0.0, "vision_backbone": 0.0, "fusion_head": 600.0},
    ]
    assert sorted(asked) == [
        ("count_graph", "fusion_head", 5, 2), ("count_graph", "text_encoder", 5, 0),
        ("count_graph", "vision_backbone", 0, 0),
    ]  # fmt: skip
    measurements[0].outcome["sizes"] = [{**SIZES[2], "tokens": tokens} for tokens in range(5, 10)]
    assert count_work(JOB, measurements[:1], worker=Counter()) == [None]  # type: ignore[arg-type]


def test_the_report_has_every_field(tiny_bundle: Path) -> None:
    report = json.loads(json.dumps(report_of(tiny_bundle, "torch", "onnxruntime", "openvino:bf16")))
    assert set(report) == {"runs", "machine", "bundle", "prompt", "date"}
    assert {"cpu", "cores", "threads", "memory_mb", "os", "python", "packages", "peak_gflops", "gpu"} <= set(
        report["machine"]
    )
    assert set(report["bundle"]) == {"name", "folder", "graphs_mb", "precision", "manifest_sha256", "weights_sha256"}
    assert report["prompt"] == "cat. rocket"
    for run in report["runs"]:
        assert set(run) >= RUN_FIELDS
        assert tuple(run["stages"]) == STAGES
        for times in (*run["stages"].values(), run["total"]):
            assert {"mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms"} <= set(times)
        assert all("calls" in stage for stage in run["stages"].values())


def test_the_reports_numbers(tiny_bundle: Path) -> None:
    torch, ort, openvino = report_of(tiny_bundle, "torch", "onnxruntime", "openvino:bf16")["runs"]
    assert [run["speedup_vs_torch_plain"] for run in (torch, ort, openvino)] == [1, 4, 8]
    assert ort["images_per_second"] == 20 and ort["rounds"] == 3
    assert ort["gmac_per_image"] == 2.0  # (0.5 + 2 + 1.5) a run of two pictures
    assert ort["share_of_peak"] == pytest.approx(2 * 4.0 / 0.1 / 100)
    assert openvino["share_of_peak"] == pytest.approx(2 * 4.0 / 0.05 / 400)  # of the bf16 peak
    assert ort["stages"]["vision_backbone"]["share_of_peak"] == pytest.approx(2 * 2.0 / 0.03 / 100)
    assert torch["gmac_per_image"] == 600 and torch["stages"]["fusion_head"]["gmac"] is None
    assert torch["agreement"] is None and torch["max_box_diff_px"] is None
    assert ort["max_box_diff_px"] == 0 and ort["agreement"]["within_tolerance"]


def test_without_torch_there_is_no_ratio(tiny_bundle: Path) -> None:
    ort, openvino = report_of(tiny_bundle, "onnxruntime", "openvino:bf16")["runs"]
    assert ort["speedup_vs_torch_plain"] is None and openvino["speedup_vs_torch_plain"] is None
    assert openvino["agreement"]["reference"] == "onnxruntime"


def test_a_wrong_backend_is_marked(tiny_bundle: Path) -> None:
    report = report_of(tiny_bundle, "torch", "onnxruntime", wrong="onnxruntime")
    assert not report["runs"][1]["agreement"]["within_tolerance"]
    assert "OUT OF TOLERANCE" in _shown(costs_table(report))


def test_the_tables_show_a_row_a_backend(tiny_bundle: Path) -> None:
    report = report_of(tiny_bundle, "torch", "onnxruntime")
    for table in (times_table(report), costs_table(report)):
        assert table.row_count == 2
    assert "400" in _shown(times_table(report)) and "as the reference" in _shown(costs_table(report))
    assert [milliseconds(value) for value in (0.4123, 15.34, 481.9)] == ["0.41", "15.3", "482"]


def test_what_was_not_measured_is_told(tiny_bundle: Path) -> None:
    report = report_of(tiny_bundle, "torch", "openvino:bf16")
    machine = report["machine"]
    assert (
        "peak: fp32 100, bf16 400, int8 800 GFLOP/s" in _shown(costs_table(report))
        and machine["peak_not_measured"] == {}
    )
    why = "this CPU has no bf16 products"
    machine |= {"peak_gflops": {"fp32": 100.0, "bf16": None}, "peak_not_measured": {"bf16": why}}
    assert f"peak: fp32 100 GFLOP/s; bf16: not measured: {why}" in _shown(costs_table(report))
    machine |= {"peak_gflops": {"fp32": None, "bf16": None}, "peak_not_measured": {}}  # --no-cost
    assert "peak:" not in _shown(costs_table(report))


def test_the_plot_is_a_png(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_stages(report_of(tiny_bundle, "torch", "onnxruntime"), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def _shown(table: Any) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
