"""What torch:cuda puts on a GPU, counted on tensors without memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from glip_export.bench.graph_cost import bundle_gmac
from glip_export.bundle import Bundle

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))
import planned_work
from planned_work import Rates, Work, planned

RATES = Rates(400.0, 2.0, 3.0)
SIZE, TOKENS, NAMES = (64, 96), 7, 3


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


def whole(bundle: Bundle, graph: str, precision: str = "fp16", fused: bool = True) -> Work:
    total = Work()
    for work in planned(bundle, graph, RATES, SIZE, TOKENS, NAMES, precision, fused).values():
        total.add(work)
    return total


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("graph", ["text_encoder", "vision_backbone", "fusion_head"])
def test_its_products_are_those_of_the_graph(bundle: Bundle, graph: str, fused: bool) -> None:
    """As ONNX Runtime's profiler counts them, whatever kernels make them."""
    counted, expected = whole(bundle, graph, fused=fused).flop, 2e9 * bundle_gmac(bundle, graph, SIZE, TOKENS, NAMES)
    if fused and graph == "fusion_head":  # the text's layers were multiplied into one another, and this model is small
        assert 0.6 * expected < counted < 0.8 * expected
    else:
        assert counted == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("graph", ["text_encoder", "fusion_head"])
def test_fused_modules_are_fewer_launches_and_bytes(bundle: Bundle, graph: str) -> None:
    plain, fused = whole(bundle, graph, fused=False), whole(bundle, graph)
    assert 0 < fused.launches < 0.7 * plain.launches and 0 < fused.bytes < plain.bytes


def test_swin_blocks_are_fewer_launches_and_bytes_and_no_products_of_padding(demo_bundle: Path) -> None:
    bundle = Bundle.open(demo_bundle, verify=False)
    plain, fused = (whole(bundle, "vision_backbone", fused=fused) for fused in (False, True))
    assert fused.launches < 0.5 * plain.launches and fused.bytes < 0.5 * plain.bytes
    assert 0.5 * plain.flop < fused.flop < plain.flop


def test_halves_are_fewer_bytes(bundle: Bundle) -> None:
    half, single = (whole(bundle, "vision_backbone", precision).bytes for precision in ("fp16", "fp32"))
    assert half < 0.8 * single


def test_the_floor_is_the_longer_of_bytes_and_products_and_the_launches() -> None:
    assert RATES.milliseconds(Work(2, 4 * 10**9, 0)) == pytest.approx(2.006)
    assert RATES.milliseconds(Work(0, 1, 4 * 10**12)) == pytest.approx(10.0)


def test_tables_and_json(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(bundle.path), "--size", "64x96", "--tokens", "7", "--names", "3"]
    planned_work.main([*words, "--rows", "2"])
    table = capsys.readouterr().out
    assert "vision_backbone" in table and "the rest" in table and "floor, ms" in table
    planned_work.main([*words, "--json", "--fused"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"text_encoder", "vision_backbone", "fusion_head"}
    assert sum(part["launches"] for part in found["text_encoder"].values()) == whole(bundle, "text_encoder").launches
