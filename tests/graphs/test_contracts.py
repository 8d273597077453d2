"""A bundle's contract follows its configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from glip_export.config import GlipConfig, HeadConfig, SwinConfig, TextConfig
from glip_export.graphs.contracts import (
    FUSION_HEAD,
    GRAPHS,
    TEXT_ENCODER,
    TEXT_FUSING_BACKBONE,
    VISION_BACKBONE,
    fixed_axes,
    graphs_of,
    output_shapes,
    pyramid_axes,
)
from glip_export.model.swin import ConvDownsample, OverlappingPatchEmbed

PUBLISHED = GlipConfig()
TWO = TextConfig(n_layers=2)


def test_the_published_models_have_the_published_contract() -> None:
    assert list(graphs_of(PUBLISHED)) == list(GRAPHS)
    assert list(graphs_of(PUBLISHED).values()) == [TEXT_ENCODER, VISION_BACKBONE, FUSION_HEAD]
    assert fixed_axes(PUBLISHED) == {"C": 256, "L": 768, "F": 768, "D": 100}


@pytest.mark.parametrize("version", ["vl", "v2_vl"])
def test_a_backbone_that_fuses_text_takes_and_gives_it(version: str) -> None:
    graphs = graphs_of(replace(PUBLISHED, swin=SwinConfig(version=version)))
    backbone = graphs["vision_backbone"]
    assert backbone.input_names == ["images", "text_features", "attention_mask"]
    assert backbone.output_names == ["p3", "p4", "p5", "p6", "p7", "fused_text_features"]
    assert backbone == replace(TEXT_FUSING_BACKBONE, overlapping=version == "v2_vl")
    assert (graphs["text_encoder"], graphs["fusion_head"]) == (TEXT_ENCODER, FUSION_HEAD)
    shapes = output_shapes(
        backbone,
        {"images": (2, 3, 64, 96), "text_features": (2, 5, 768), "attention_mask": (2, 5)},
        fixed_axes(PUBLISHED),
    )
    assert shapes["fused_text_features"] == (2, 5, 768)
    assert shapes["p3"] == ((2, 256, 9, 12) if version == "v2_vl" else (2, 256, 8, 12))


@pytest.mark.parametrize(
    ("head", "swin", "text", "encoded", "read"),
    [
        (HeadConfig(), SwinConfig(), TWO, 1, 1),
        (HeadConfig(fused_dot_product=False), SwinConfig(), TextConfig(), 1, 1),
        (HeadConfig(fused_dot_product=False), SwinConfig(), TWO, 2, 2),
        (HeadConfig(early_fusion=False, fused_dot_product=False), SwinConfig(), TWO, 1, 1),
        (HeadConfig(fusion="MHA-S"), SwinConfig(), TextConfig(), 7, 7),
        (HeadConfig(fusion="MHA-S", early_fusion=False), SwinConfig(), TextConfig(), 1, 1),
        (HeadConfig(fusion="other", num_convs=2), SwinConfig(), TWO, 3, 3),
        (HeadConfig(fusion="MHA-S"), SwinConfig(version="vl"), TextConfig(), 1, 1),
        (HeadConfig(fused_dot_product=False), SwinConfig(version="vl"), TextConfig(), 1, 2),
        (HeadConfig(fused_dot_product=False), SwinConfig(version="vl"), TWO, 2, 2),
        (HeadConfig(early_fusion=False, fused_dot_product=False), SwinConfig(version="vl"), TWO, 2, 1),
    ],
)
def test_widths_of_the_text(head: HeadConfig, swin: SwinConfig, text: TextConfig, encoded: int, read: int) -> None:
    axes = fixed_axes(replace(PUBLISHED, head=head, swin=swin, text=text))
    assert (axes["L"], axes["F"]) == (768 * encoded, 768 * read)


@pytest.mark.parametrize("size", [(64, 96), (256, 320), (800, 1216), (832, 1344), (1024, 32)])
def test_maps_of_overlapping_patches_are_the_convolutions(size: tuple[int, int]) -> None:
    axes = pyramid_axes(*size, overlapping=True)
    x = OverlappingPatchEmbed(1)(torch.zeros(1, 3, *size))
    for level in range(3, 8):
        x = ConvDownsample(1)(x)[..., :1]
        assert x.shape[1:3] == (axes[f"H{level}"], axes[f"W{level}"])


def test_maps_of_the_originals_examples() -> None:
    """GLIP's v2: 256 -> 65, 320 -> 80, 800 -> 201, 1216 -> 304 in the first map, half of that in P3."""
    for side, first in ((256, 65), (320, 80), (800, 201), (1216, 304)):
        assert pyramid_axes(side, side, overlapping=True)["H3"] == -(-first // 2)
    plain = pyramid_axes(800, 1216)
    assert [plain[f"H{level}"] for level in range(3, 8)] == [100, 50, 25, 13, 7]
    assert [plain[f"W{level}"] for level in range(3, 8)] == [152, 76, 38, 19, 10]
