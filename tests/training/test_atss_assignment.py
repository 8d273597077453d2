"""ATSS against a direct form with one loop for each sentence of the paper."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from glip_export.config import DetectionConfig
from glip_export.training.assignment import assign, centerness_targets, pairwise_iou, pyramid_anchors

SIZES = [(8, 10), (4, 5), (2, 3), (1, 2), (1, 1)]


def slow_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    intersection = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return intersection / (sum(areas) - intersection)


def slow_assign(levels: list[list[list[float]]], boxes: list[list[float]], top_k: int) -> list[int]:
    anchors = [anchor for level in levels for anchor in level]
    best: dict[int, tuple[float, int]] = {}
    for owner, box in enumerate(boxes):
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        candidates, start = [], 0
        for level in levels:
            near = sorted(
                range(start, start + len(level)),
                key=lambda i: math.dist(
                    centre, ((anchors[i][0] + anchors[i][2]) / 2, (anchors[i][1] + anchors[i][3]) / 2)
                ),
            )
            candidates += near[:top_k]
            start += len(level)
        overlaps = {i: slow_iou(anchors[i], box) for i in candidates}
        threshold = statistics.mean(overlaps.values()) + statistics.stdev(overlaps.values())
        for i, overlap in overlaps.items():
            x, y = (anchors[i][0] + anchors[i][2]) / 2, (anchors[i][1] + anchors[i][3]) / 2
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if overlap >= threshold and inside and overlap > best.get(i, (-1.0, -1))[0]:
                best[i] = (overlap, owner)
    return [best[i][1] if i in best else -1 for i in range(len(anchors))]


def random_boxes(generator: torch.Generator, count: int) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=generator) * 50
    return torch.cat((corner, corner + 4 + torch.rand(count, 2, generator=generator) * 60), 1)


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_direct_form(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    config = DetectionConfig(anchor_sizes=(32, 64, 128, 256, 512))
    levels = [level.double() for level in pyramid_anchors(SIZES, config)]
    boxes = random_boxes(generator, 1 + seed % 5).double()
    expected = slow_assign([level.tolist() for level in levels], boxes.tolist(), 9)
    assert assign(levels, boxes, 9).tolist() == expected
    assert any(owner >= 0 for owner in expected)


def test_an_anchor_between_two_objects_learns_the_one_it_covers_better() -> None:
    anchors = [torch.tensor([[0.0, 0, 31, 31], [64, 64, 95, 95], [96, 64, 127, 95], [64, 96, 95, 127]])]
    boxes = torch.tensor([[0.0, 0, 60, 60], [0.0, 0, 33, 33]])
    assert assign(anchors, boxes[:1], 9).tolist() == [0, -1, -1, -1]
    assert assign(anchors, boxes, 9).tolist() == [1, -1, -1, -1]


def test_no_objects_leave_every_anchor_free() -> None:
    owners = assign(pyramid_anchors(SIZES, DetectionConfig()), torch.zeros(0, 4), 9)
    assert owners.tolist() == [-1] * sum(height * width for height, width in SIZES)


def test_anchors_lie_where_the_detector_decodes_from() -> None:
    first, second = pyramid_anchors([(2, 3), (1, 2)], DetectionConfig(anchor_sizes=(64, 128), anchor_strides=(8, 16)))
    assert first[0].tolist() == [-28, -28, 35, 35]
    assert first[4].tolist() == [-20, -20, 43, 43]  # row 1, column 1
    assert second[1].tolist() == [-40, -56, 87, 71]


def test_iou_equals_the_direct_form() -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = random_boxes(generator, 6), random_boxes(generator, 5)
    expected = [[slow_iou(a, b) for b in second.tolist()] for a in first.tolist()]
    torch.testing.assert_close(pairwise_iou(first, second), torch.tensor(expected))


def test_centerness_is_one_in_the_middle_and_falls_to_the_border() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 80]]).repeat(3, 1)
    anchors = torch.tensor(
        [[10.0, 30, 30, 50], [0.0, 30, 20, 50], [0.0, 10, 20, 30]]
    )  # centres (20,40) (10,40) (10,20)
    expected = [1.0, math.sqrt(10 / 30), math.sqrt(10 / 30 * 20 / 60)]
    torch.testing.assert_close(centerness_targets(anchors, boxes), torch.tensor(expected))
