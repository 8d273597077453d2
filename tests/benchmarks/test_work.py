"""What the rows are given, and the arithmetic that it is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

from work import STAGES, arithmetic, make_work

from glip_export import Bundle
from glip_export.bench.graph_cost import bundle_gmac
from glip_export.config import GlipConfig


def test_the_arithmetic_is_what_the_bundles_graphs_do(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    work = make_work(bundle.config, 1, (160, 224), "4 names", "cpu")
    counted = arithmetic(bundle.config, work)
    for stage, graph in zip(STAGES, ("text_encoder", "vision_backbone", "fusion_head"), strict=True):
        gmac = bundle_gmac(bundle, graph, (160, 224), work.tokens, work.class_map.shape[2])
        assert counted[stage]["gflop"] == pytest.approx(2 * gmac, rel=0.03), stage
        assert counted[stage]["mb"] > 0


@pytest.mark.parametrize(("prompt", "gflop"), [("COCO", 722), ("4 names", 456)])
def test_the_published_size_asks_for_what_is_known_of_it(prompt: str, gflop: float) -> None:
    # Known: Swin, FPN, DyConv and VLFuse; the text's own layers and the logits come on top, some with T, 5 % at 194.
    config = GlipConfig()
    counted = arithmetic(config, make_work(config, 1, (800, 1216), prompt, "cpu"))
    assert sum(counted[stage]["gflop"] for stage in ("backbone", "head")) == pytest.approx(gflop, rel=0.06)


def test_work_is_the_same_for_the_same_seed() -> None:
    one, two = (make_work(GlipConfig(), 2, (64, 96), "COCO", "cpu") for _ in range(2))
    assert np.array_equal(one.images.numpy(), two.images.numpy()) and one.tokens == 194
    mask, maps, sizes = one.head_inputs(256)
    assert mask.shape == (2, 256) and mask.sum() == 2 * 194
    assert maps.shape == (2, 256, 80) and sizes.tolist() == [[64, 96]] * 2
