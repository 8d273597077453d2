"""Each loss against a direct, slow form, and its gradient against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from glip_export.config import DetectionConfig
from glip_export.model.boxes import anchors_at, decode
from glip_export.model.graph_ops import modulated_deform_conv
from glip_export.model.selection import LevelPredictions
from glip_export.training.assignment import assign, pyramid_anchors
from glip_export.training.losses import Objects, detection_losses, focal_loss, giou_loss, soft_token_loss
from glip_export.training.settings import TrainingSettings

SIZES = [(6, 8), (3, 4), (2, 2), (1, 1), (1, 1)]
CONFIG = DetectionConfig(anchor_sizes=(32, 64, 128, 256, 512))


def slow_focal(logit: float, target: float, alpha: float, gamma: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    entropy = -target * math.log(p) - (1 - target) * math.log(1 - p)
    p_t = p * target + (1 - p) * (1 - target)
    return (alpha * target + (1 - alpha) * (1 - target)) * (1 - p_t) ** gamma * entropy


def slow_giou(a: list[float], b: list[float]) -> float:
    a = [a[0], a[1], max(a[0], a[2]), max(a[1], a[3])]
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = width * height if width > 0 and height > 0 else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return intersection / union - (hull - union) / hull


def slow_losses(
    levels: list[LevelPredictions], objects: list[Objects], mask: torch.Tensor, settings: TrainingSettings
) -> tuple[float, float, float]:
    tokens = boxes = centres = weights = 0.0
    positives = 0
    for image, (truth, token_map) in enumerate(objects):
        owners = assign(pyramid_anchors(SIZES, CONFIG), truth, settings.top_k).tolist()
        row = 0
        for level, size, stride in zip(levels, CONFIG.anchor_sizes, CONFIG.anchor_strides, strict=True):
            height, width = level.centerness.shape[2:]
            for position in range(height * width):
                owner = owners[row]
                row += 1
                for token in range(mask.shape[1]):
                    if mask[image, token]:
                        target = 0.0 if owner < 0 else token_map[owner, token].item()
                        logit = level.token_logits[image, position, token].item()
                        tokens += slow_focal(logit, target, settings.alpha, settings.gamma)
                if owner < 0:
                    continue
                positives += 1
                y, x = divmod(position, width)
                anchor = anchors_at(torch.tensor(position), width, size, stride)
                box = truth[owner].tolist()
                cx, cy = ((anchor[:2] + anchor[2:]) / 2).tolist()
                left, right, top, bottom = cx - box[0], box[2] - cx, cy - box[1], box[3] - cy
                centre = math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
                predicted = decode(level.box_deltas[image, :, y, x], anchor)
                boxes += centre * (1 - slow_giou(predicted.tolist(), box))
                weights += centre
                p = 1 / (1 + math.exp(-level.centerness[image, 0, y, x].item()))
                centres += -centre * math.log(p) - (1 - centre) * math.log(1 - p)
    return (
        settings.token_weight * tokens / positives,
        settings.box_weight * boxes / weights,
        centres / positives,
    )


def random_case(seed: int) -> tuple[list[LevelPredictions], list[Objects], torch.Tensor]:
    torch.manual_seed(seed)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    levels = [
        LevelPredictions(torch.randn(2, h * w, 7) * 2, torch.randn(2, 4, h, w), torch.randn(2, 1, h, w))
        for h, w in SIZES
    ]
    objects = []
    for image in range(2):
        corner = torch.rand(3, 2) * 30
        boxes = torch.cat((corner, corner + 5 + torch.rand(3, 2) * 30), 1)
        tokens = torch.zeros(3, 7)
        for row in range(3 - image):  # the last object of the second picture is named by nothing
            tokens[row, 1 + row : 3 + row] = 0.5
        objects.append(Objects(boxes, tokens))
    return levels, objects, mask


@pytest.mark.parametrize("seed", range(4))
def test_the_three_losses_equal_the_direct_form(seed: int) -> None:
    levels, objects, mask = random_case(seed)
    settings = TrainingSettings(token_weight=1.5, box_weight=2.5)
    losses = detection_losses(levels, objects, mask, CONFIG, settings)
    assert [value.item() for value in losses[:3]] == pytest.approx(
        slow_losses(levels, objects, mask, settings), rel=2e-5
    )
    assert losses.total.item() == pytest.approx(sum(value.item() for value in losses), rel=1e-6)


def test_a_padded_token_has_no_part() -> None:
    levels, objects, mask = random_case(0)
    before = detection_losses(levels, objects, mask, CONFIG, TrainingSettings())
    for level in levels:
        level.token_logits[1, :, 5:] += 100
    assert detection_losses(levels, objects, mask, CONFIG, TrainingSettings()) == before
    for level in levels:
        level.token_logits[1, :, 4] += 1
    assert detection_losses(levels, objects, mask, CONFIG, TrainingSettings()).tokens > before.tokens + 0.1


def test_pictures_without_objects_leave_only_the_token_loss() -> None:
    levels, objects, mask = random_case(1)
    for level in levels:
        level.box_deltas.requires_grad_()
    empty = [Objects(item.boxes[:0], item.tokens[:0]) for item in objects]
    losses = detection_losses(levels, empty, mask, CONFIG, TrainingSettings())
    expected = sum(
        slow_focal(logit, 0.0, 0.25, 2.0)
        for level in levels
        for image in range(2)
        for logit in level.token_logits[image][:, mask[image] > 0].flatten().tolist()
    )
    assert losses.tokens.item() == pytest.approx(expected, rel=1e-5)
    assert losses.boxes.item() == losses.centerness.item() == 0
    losses.total.backward()
    assert all((level.box_deltas.grad == 0).all() for level in levels)


def test_perfect_predictions_cost_nothing() -> None:
    _, objects, mask = random_case(2)
    anchors = pyramid_anchors(SIZES, CONFIG)
    levels = []
    for level, (h, w) in zip(anchors, SIZES, strict=True):
        logits = torch.full((2, h * w, 7), -40.0)
        levels.append(LevelPredictions(logits, torch.zeros(2, 4, h, w), torch.zeros(2, 1, h, w)))
        assert len(level) == h * w
    whole = [Objects(item.boxes, (item.tokens > 0).float()) for item in objects]
    for image, (boxes, tokens) in enumerate(whole):
        owners = assign(anchors, boxes, 9).split([len(level) for level in anchors])
        for level, owner in zip(levels, owners, strict=True):
            found = owner >= 0
            level.token_logits[image, found] = tokens[owner[found]] * 80 - 40
    assert detection_losses(levels, whole, mask, CONFIG, TrainingSettings()).tokens.item() < 1e-9


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_equals_the_direct_form_and_its_gradient_finite_differences(gamma: float) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 3, 4, dtype=torch.float64) * 2).requires_grad_()
    targets = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64).expand(2, 3, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1]])
    expected = sum(
        slow_focal(logits[b, n, t].item(), targets[b, n, t].item(), 0.25, gamma)
        for b in range(2)
        for n in range(3)
        for t in range(4)
        if mask[b, t]
    )
    assert focal_loss(logits, targets, mask, 0.25, gamma).item() == pytest.approx(expected, rel=1e-9)
    assert gradcheck(lambda x: focal_loss(x, targets, mask, 0.25, gamma), logits)


def test_soft_token_loss_equals_the_direct_form_and_its_gradient_finite_differences() -> None:
    torch.manual_seed(3)
    logits = (torch.randn(3, 5, dtype=torch.float64) * 3).requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    targets = torch.tensor([[0, 0.5, 0.5, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0.25, 0.75, 0]], dtype=torch.float64)
    expected = 0.0
    for row, of, real in zip(logits.tolist(), targets.tolist(), mask.tolist(), strict=True):
        total = sum(math.exp(value) for value, is_real in zip(row, real, strict=True) if is_real)
        expected -= sum(share * (value - math.log(total)) for value, share in zip(row, of, strict=True) if share)
    assert soft_token_loss(logits, targets, mask).item() == pytest.approx(expected, rel=1e-9)
    assert gradcheck(lambda x: soft_token_loss(x, targets, mask), logits)


def test_soft_tokens_are_part_of_the_losses_only_where_asked_for() -> None:
    levels, objects, mask = random_case(3)
    without, with_it = (
        detection_losses(levels, objects, mask, CONFIG, TrainingSettings(), weight) for weight in (0.0, 0.5)
    )
    assert without.soft_tokens.item() == 0 and without[:3] == with_it[:3]
    anchors = pyramid_anchors(SIZES, CONFIG)
    logits = torch.cat([level.token_logits for level in levels], 1)
    losses = []
    for image, (boxes, tokens) in enumerate(objects):
        owner = assign(anchors, boxes, 9)
        for place in (owner >= 0).nonzero().flatten().tolist():
            real = mask[image] > 0
            among = logits[image, place][real].log_softmax(-1)
            losses.append(-(tokens[owner[place]][real] * among).sum().item())
    assert with_it.soft_tokens.item() == pytest.approx(0.5 * sum(losses) / len(losses), rel=1e-5)


def test_giou_equals_the_direct_form_and_its_gradient_finite_differences() -> None:
    torch.manual_seed(1)
    corner = torch.rand(40, 2, dtype=torch.float64) * 40
    targets = torch.cat((corner, corner + 3 + torch.rand(40, 2, dtype=torch.float64) * 30), 1)
    boxes = (targets + torch.randn(40, 4, dtype=torch.float64) * 15).requires_grad_()
    expected = [1 - slow_giou(a, b) for a, b in zip(boxes.tolist(), targets.tolist(), strict=True)]
    assert giou_loss(boxes, targets).tolist() == pytest.approx(expected, abs=1e-7)
    assert any(value > 1 for value in expected) and any((boxes[:, 2:] < boxes[:, :2]).any(1))
    assert gradcheck(lambda x: giou_loss(x, targets), boxes)


def test_deformable_convolution_is_differentiable_in_everything() -> None:
    torch.manual_seed(2)
    x, weight, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3, 5, 4), (2, 3, 3, 3), (2,)))
    offset = torch.randn(2, 18, 5, 4, dtype=torch.float64)
    offset = offset.floor() + 0.2 + 0.6 * torch.rand_like(offset)  # on a grid line the derivative jumps
    mask = torch.rand(2, 9, 5, 4, dtype=torch.float64)
    arguments = [value.requires_grad_() for value in (x, offset, mask, weight, bias)]
    assert gradcheck(lambda *given: modulated_deform_conv(*given, 1), arguments)
