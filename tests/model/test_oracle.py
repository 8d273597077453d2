"""The reference model against the original's own tensors (tests/data/oracle/README.md names them)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glip_export.model.bi_attention import VLFuse
from glip_export.model.boxes import anchors_at
from glip_export.model.glip import Glip
from glip_export.model.text_layer import BertEncoderLayer
from glip_export.parity.metrics import compare

RELATIVE = 1e-4  # the original in fp32 against itself in fp64: up to 2.8e-5
LEVELS = range(3, 8)


def assert_close(value: torch.Tensor, expected: np.ndarray) -> None:
    assert compare(expected, value.numpy()).relative < RELATIVE


@pytest.fixture(scope="module")
def io(tiny_io: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in tiny_io.items()}


def test_text_encoder(tiny_model: Glip, io: dict[str, torch.Tensor]) -> None:
    hidden = tiny_model.text_encoder(io["input_ids"], io["attention_mask"])
    assert_close(hidden, io["bert_hidden"].numpy())
    assert_close(hidden * io["attention_mask"][..., None], io["bert_embedded"].numpy())


def test_vision_backbone(tiny_model: Glip, io: dict[str, torch.Tensor]) -> None:
    swin = tiny_model.vision_backbone.swin
    stage_output, _ = swin.layers[0](swin.patch_embed(io["image_batch"]))
    assert_close(stage_output.permute(0, 3, 1, 2), io["swin_C2"].numpy())
    for level, stage in zip((3, 4, 5), swin(io["image_batch"]), strict=True):
        assert_close(stage, io[f"swin_C{level}"].numpy())
    for level, feature in zip(LEVELS, tiny_model.vision_backbone(io["image_batch"]), strict=True):
        assert_close(feature, io[f"fpn_P{level}"].numpy())


@pytest.mark.parametrize("folds", [False, True])
def test_fusion_head(tiny_model: Glip, io: dict[str, torch.Tensor], folds: bool) -> None:
    head = tiny_model.fusion_head
    head.fold(folds)
    try:
        features = tuple(io[f"fpn_P{level}"] for level in LEVELS)
        text, mask = io["bert_hidden"], io["attention_mask"]
        for index, layer in enumerate(head.dyhead_tower):
            features, text = layer(features, text, mask)
            name = f"tower{index:02d}_{type(layer).__name__}"
            if isinstance(layer, (VLFuse, BertEncoderLayer)):
                assert_close(text, io[f"{name}_lang"].numpy())
            if not isinstance(layer, BertEncoderLayer):
                for level, feature in zip(LEVELS, features, strict=True):
                    assert_close(feature, io[f"{name}_P{level}"].numpy())
        start = tuple(io[f"fpn_P{level}"] for level in LEVELS)
        for level, predictions in zip(LEVELS, head.predict(start, io["bert_hidden"], mask), strict=True):
            assert_close(predictions.token_logits, io[f"dot_product_logits_P{level}"].numpy())
            assert_close(predictions.box_deltas, io[f"bbox_reg_P{level}"].numpy())
            assert_close(predictions.centerness, io[f"centerness_P{level}"].numpy())
    finally:
        head.fold(False)


def test_anchors(tiny_model: Glip, io: dict[str, torch.Tensor]) -> None:
    detection = tiny_model.config.detection
    for level, size, stride in zip(LEVELS, detection.anchor_sizes, detection.anchor_strides, strict=True):
        height, width = io[f"fpn_P{level}"].shape[2:]
        anchors = anchors_at(torch.arange(height * width), width, size, stride)
        assert torch.equal(anchors, io[f"anchors_P{level}"])


def test_detections(tiny_model: Glip, io: dict[str, torch.Tensor], tiny_class_map: np.ndarray) -> None:
    boxes, scores, labels, count = tiny_model(
        io["image_batch"],
        io["input_ids"],
        io["attention_mask"],
        torch.from_numpy(tiny_class_map).expand(2, -1, -1),
        io["image_sizes"],
    )
    for image in range(2):
        order = np.argsort(-io[f"result{image}_scores"].numpy(), kind="stable")  # the original's order means nothing
        n = int(count[image])
        assert n == len(order) == 100
        np.testing.assert_array_equal(labels[image].numpy() + 1, io[f"result{image}_labels"].numpy()[order])
        np.testing.assert_allclose(boxes[image].numpy(), io[f"result{image}_boxes"].numpy()[order], atol=0.02)
        np.testing.assert_allclose(scores[image].numpy(), io[f"result{image}_scores"].numpy()[order], atol=1e-4)


def test_candidates_before_nms(tiny_model: Glip, io: dict[str, torch.Tensor], tiny_class_map: np.ndarray) -> None:
    from glip_export.model.selection import level_candidates

    config = tiny_model.config.detection
    features = tuple(io[f"fpn_P{level}"] for level in LEVELS)
    levels = tiny_model.fusion_head.predict(features, io["bert_hidden"], io["attention_mask"])
    class_map = torch.from_numpy(tiny_class_map).expand(2, -1, -1)
    found = [
        level_candidates(level, class_map, io["image_sizes"], config, size, stride)
        for level, size, stride in zip(levels, config.anchor_sizes, config.anchor_strides, strict=True)
    ]
    for image in range(2):
        scores = torch.cat([level.scores[image] for level in found])
        real = scores >= 0
        boxes = torch.cat([level.boxes[image] for level in found])[real]
        expected = io[f"prenms{image}_scores"]
        assert int(real.sum()) == len(expected)
        order, theirs = scores[real].argsort(descending=True), expected.argsort(descending=True)
        np.testing.assert_allclose(scores[real][order].numpy(), expected[theirs].numpy(), atol=1e-5)
        # Equal scores may stand in either order: compare the boxes as a set, by rounded corners.
        ours = np.sort(boxes.numpy().round(1).sum(1))
        np.testing.assert_allclose(ours, np.sort(io[f"prenms{image}_boxes"].numpy().round(1).sum(1)), atol=0.5)
