import io
import json
from typing import Any

import numpy as np
import pytest
from parity.fakes import CONFIG, Change, FakeSession, cases, noise
from rich.console import Console

from glip_export.parity.ladder import climb, climb_all
from glip_export.parity.report import ParityReport


@pytest.fixture(scope="module")
def mixed() -> ParityReport:
    """One backend that passes and one with a wrong P5, a NaN and a crash."""

    def break_p5(array: Any) -> Any:
        if len(array) == 2:
            raise RuntimeError("out of [memory]")
        array = array * np.float32(1.5)
        array.flat[0] = np.nan
        return array

    good = FakeSession("onnxruntime", {"p3": noise(1e-7)})
    results = climb_all(FakeSession("torch"), [good, FakeSession("openvino", {"p5": break_p5})], CONFIG, cases())
    return ParityReport(tuple(results), {"onnxruntime": "1.24"})


def test_json_is_strict_and_says_who_failed_and_where(mixed: ParityReport) -> None:
    report = json.loads(json.dumps(mixed.to_dict(), allow_nan=False))
    assert report["passed"] is False
    assert report["reference"] == "torch"
    assert report["versions"] == {"onnxruntime": "1.24"}
    assert report["tolerance"]["relative"] == 1e-3
    good, bad = report["backends"]["onnxruntime"], report["backends"]["openvino"]
    assert (good["passed"], good["failures"]) == (True, [])
    assert [case["name"] for case in good["cases"]] == ["one", "two"]
    assert good["worst"]["detections"] == {
        "reference": 60,
        "paired": 60,
        "within_noise": 0,
        "real": 0,
        "box_px": 0,
        "score": pytest.approx(0, abs=1e-6),
    }
    assert good["batch_invariance"]["passed"] is True
    assert bad["worst"]["p5"]["nan"] == 1
    assert [case["passed"] for case in bad["cases"]] == [False, False]
    assert "two: stopped: RuntimeError: out of [memory]" in bad["failures"]


def test_the_table_shows_every_output_and_ends_with_the_verdict(mixed: ParityReport) -> None:
    text = shown(mixed)
    for word in ("onnxruntime", "openvino", "text_features", "p3", "p7", "within noise", "out of [memory]"):
        assert word in text
    last = text.strip().splitlines()[-1]
    assert last.startswith("FAILED: openvino: one: p5: ")
    assert last.endswith(" more.")


def test_a_pass_is_one_sentence() -> None:
    report = ParityReport((climb(FakeSession("torch"), FakeSession("onnxruntime"), CONFIG, cases()),))
    assert report.passed
    assert shown(report).strip().splitlines()[-1] == (
        "PASSED: onnxruntime equals torch within 0.001 of rms, 0.05 px and 0.001 of score on 2 cases "
        "(60 detections in 3 pictures)."
    )
    assert "✗" not in shown(report)


def test_a_model_that_finds_nothing_passes_but_says_what_was_not_compared() -> None:
    nothing: dict[str, Change] = {"labels": lambda labels: np.full_like(labels, -1), "count": lambda count: count * 0}
    report = ParityReport((climb(FakeSession("torch", nothing), FakeSession("b", nothing), CONFIG, cases()),))
    assert report.passed
    assert "NO detections" in report.verdict()


def test_no_backend_is_no_pass() -> None:
    report = ParityReport(())
    assert not report.passed
    assert report.verdict() == "FAILED: no backend was compared."
    assert json.dumps(report.to_dict(), allow_nan=False)
    assert "FAILED" in shown(report)


def shown(report: ParityReport) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table())
    return console.export_text()
