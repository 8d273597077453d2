"""fp16 and bf16 graphs beside fp32: detections found again, finite whatever the picture and the prompt's length."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from glip_export.bundle import Bundle
from glip_export.errors import BackendError
from glip_export.graphs.precision import converted_graphs
from glip_export.parity.cases import Case, built_in_cases
from glip_export.parity.precision_check import PrecisionReport, RoundedSession, check_precision, count_nonfinite
from glip_export.parity.recall import together
from glip_export.parity.run import Inputs, TextInputs, run

LENGTHS = (1, 2, 3, 16, 64, 128, 256)  # tokens


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


@pytest.fixture(scope="module")
def cases(bundle: Bundle, oracle_tiny: Path, tiny_io: dict[str, np.ndarray]) -> list[Case]:
    """The oracle's own pictures and caption, then every built-in case."""
    caption = json.loads((oracle_tiny / "prompt.json").read_text())["caption"]
    oracle = Case("oracle", (tiny_io["raw_image0"], tiny_io["raw_image1"]), caption, bundle.config.image)
    return [oracle, *built_in_cases(bundle.config)]


@pytest.fixture(scope="module")
def fp16(bundle: Bundle) -> dict[str, onnx_ir.Model]:
    return converted_graphs(bundle, "fp16")


def test_fp16_finds_the_detections_again(bundle: Bundle, fp16: dict[str, onnx_ir.Model], cases: list[Case]) -> None:
    report = check_precision(bundle, fp16, cases, threads=1)
    assert report.passed, report.line()
    assert report.recall.counted > 500
    assert report.recall.recall > 0.97
    assert 1e-4 < report.recall.score < 0.01  # it is fp16, and no worse than that


def test_the_oracle_alone(bundle: Bundle, fp16: dict[str, onnx_ir.Model], cases: list[Case]) -> None:
    report = check_precision(bundle, fp16, cases[:1], threads=1)
    assert report.passed, report.line()
    assert report.recall.counted > 50


def test_bf16_is_finite_and_near(bundle: Bundle, cases: list[Case]) -> None:
    """Its 8 bits are too few for the 95 % rule: what is kept is that nothing is broken."""
    report = check_precision(bundle, converted_graphs(bundle, "bf16"), cases, threads=1)
    assert report.nonfinite == 0
    assert report.recall.recall > 0.8


def test_graphs_of_fp32_find_everything(bundle: Bundle, cases: list[Case]) -> None:
    report = check_precision(bundle, converted_graphs(bundle, "fp32"), cases[:1], threads=1)
    assert report.recall.recall == 1 and report.recall.score == 0
    assert report.line() == (
        f"{report.recall.counted} of {report.recall.counted} clear detections found again, "
        "boxes within 0 px, scores within 0.0e+00"
    )


def test_a_broken_graph_does_not_pass(bundle: Bundle, fp16: dict[str, onnx_ir.Model]) -> None:
    head = fp16["fusion_head"].clone()
    for value in head.graph.initializers.values():
        if value.name is not None and value.name.startswith("bbox_pred.weight"):
            value.const_value = onnx_ir.tensor(np.full(value.const_value.shape, np.inf, np.float16), name=value.name)
    report = check_precision(bundle, {**fp16, "fusion_head": head}, threads=1)
    assert not report.passed
    assert report.nonfinite > 0 and "NaN or infinite" in report.line()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_any_length_and_any_picture_are_finite(bundle: Bundle, precision: str) -> None:
    reference, session = (RoundedSession(bundle, graphs, 1) for graphs in ({}, converted_graphs(bundle, precision)))
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    pictures = (np.zeros_like(noise), np.full_like(noise, 255), noise)
    images = Case("", pictures, "cat", bundle.config.image, fixed_size=(96, 128)).inputs(bundle.config)
    texts = [text(length, padding) for length in LENGTHS for padding in {0, length // 3}]
    inputs = Inputs(images.images, images.sizes, tuple(texts))
    outputs = run(session, inputs)
    assert count_nonfinite(outputs) == 0
    for chunk, expected in zip(outputs.chunks, run(reference, inputs).chunks, strict=True):
        np.testing.assert_allclose(chunk.count, expected.count, atol=5)


def text(length: int, padding: int) -> TextInputs:
    """Random tokens of which the last `padding` are masked, two names."""
    ids = np.random.default_rng(length).integers(1000, 30000, length)
    mask = (np.arange(length) < length - padding).astype(np.int64)
    names = np.zeros((length, 2), np.float32)
    names[0, 0] = names[(length - padding) // 2, 1] = 1
    return TextInputs(ids, mask, names)


def test_vacuous_gate_without_clear_detections_is_not_passed() -> None:
    report = PrecisionReport(together([]), nonfinite=0)
    assert not report.passed and report.line() == "nothing to compare, fp32 itself has no clear detection"


def test_a_graph_that_does_not_load_is_told(bundle: Bundle, fp16: dict[str, onnx_ir.Model]) -> None:
    broken = fp16["text_encoder"].clone()
    next(node for node in broken.graph if node.op_type == "MatMul").op_type = "NoSuchOperator"
    with pytest.raises(BackendError, match=r"ONNX Runtime .* cannot load"):
        check_precision(bundle, {"text_encoder": broken}, threads=1)
