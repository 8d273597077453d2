"""Class scores, box code, clipping, and the D best."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compact_oracle import mean_class_map

from glip_export.config import DetectionConfig
from glip_export.model.boxes import clip, decode
from glip_export.model.selection import EMPTY, Candidates, LevelPredictions, best_after_nms, class_scores, select


@pytest.mark.parametrize("aggregation", ["MEAN", "MAX", "POWER"])
def test_class_scores_equal_the_original(oracle_small: Path, aggregation: str) -> None:
    data = {name: torch.from_numpy(array) for name, array in np.load(oracle_small / "score_agg.npz").items()}
    probabilities, expected = data["probs"], data[aggregation]
    words = json.loads((oracle_small / "score_agg_prompt.json").read_text())
    class_map = torch.from_numpy(mean_class_map(words["positive_map"], 64)).expand(2, -1, -1)
    class_map = (class_map > 0).float() if aggregation == "MAX" else class_map
    scores = class_scores(probabilities.double().logit(), class_map.double(), aggregation)
    np.testing.assert_allclose(scores.numpy(), expected[..., :4].numpy(), atol=1e-6)
    assert not expected[..., 4:].any()  # the original's other classes have no tokens


def test_a_class_without_tokens_scores_zero() -> None:
    class_map = torch.tensor([[[1.0, 0.0]]])
    for aggregation in ("MEAN", "MAX", "POWER"):
        assert class_scores(torch.full((1, 2, 1), 3.0), class_map, aggregation)[..., 1].tolist() == [[0, 0]]


def test_decode_equals_the_original(oracle_small: Path) -> None:
    data = {name: torch.from_numpy(array) for name, array in np.load(oracle_small / "box_coder.npz").items()}
    np.testing.assert_allclose(decode(data["preds"], data["anchors"]).numpy(), data["boxes"].numpy(), atol=1e-3, rtol=0)


def test_clip_is_to_the_last_pixel() -> None:
    boxes = torch.tensor([[[-5.0, -5, 300, 300], [400, 10, 500, 20]]])
    assert clip(boxes, torch.tensor([[100, 200]])).tolist() == [[[0, 0, 199, 99], [199, 10, 199, 20]]]


def test_threshold_is_on_the_class_score_before_centerness() -> None:
    config = DetectionConfig(pre_nms_top_n=4, detections_per_image=4, nms_threshold=1.0)
    logit = torch.tensor(0.06).logit()

    def level(token_logit: torch.Tensor) -> LevelPredictions:
        logits = torch.full((1, 1, 1), float(token_logit))
        return LevelPredictions(logits, torch.zeros(1, 4, 1, 1), torch.full((1, 1, 1, 1), -2.0))

    nothing = torch.tensor(0.04).logit()
    levels = [level(logit), *[level(nothing)] * 4]
    _, scores, labels, count = select(levels, torch.ones(1, 1, 1), torch.tensor([[64, 64]]), config)
    assert count.tolist() == [1]
    assert labels.tolist() == [[0, -1, -1, -1]]
    # sqrt(0.06 * sigmoid(-2)) = 0.0846: below 0.05 once multiplied, yet a detection
    np.testing.assert_allclose(scores[0, 0].item(), (0.06 * torch.tensor(-2.0).sigmoid().item()) ** 0.5, rtol=1e-5)


@pytest.mark.parametrize(("candidates", "kept"), [(0, 0), (3, 3), (40, 10)])
def test_count_and_empty_places(candidates: int, kept: int) -> None:
    config = replace(DetectionConfig(), pre_nms_top_n=8, detections_per_image=10)
    scores = torch.full((1, 40), EMPTY)
    scores[0, :candidates] = torch.linspace(0.9, 0.1, candidates)
    corner = torch.arange(40.0)[None, :, None] * 100
    boxes = torch.cat((corner, corner, corner + 50, corner + 50), -1)
    found, best, labels, count = best_after_nms(
        Candidates(boxes, scores, torch.zeros(1, 40, dtype=torch.int64)), 1, config
    )
    assert count.tolist() == [kept]
    assert (labels[0] >= 0).sum() == kept
    assert (best[0, :-1] >= best[0, 1:]).all()
    assert not found[0, kept:].any() and not best[0, kept:].any()


def test_fewer_candidates_than_places() -> None:
    config = replace(DetectionConfig(), pre_nms_top_n=1, detections_per_image=10)
    scores = torch.tensor([[0.5, 0.4, EMPTY, EMPTY, EMPTY]])
    boxes = torch.arange(20.0).view(1, 5, 4) * 50
    _, best, _, count = best_after_nms(Candidates(boxes, scores, torch.zeros(1, 5, dtype=torch.int64)), 1, config)
    assert count.tolist() == [2] and best.shape == (1, 10)
