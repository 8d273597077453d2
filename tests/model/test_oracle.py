"""The reference model against every number of the original's (tests/data/oracle/README.md names them)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from compact_oracle import OracleCase, cases

from glip_export.checkpoint import Checkpoint
from glip_export.config import GlipConfig, load_config
from glip_export.image import preprocess, restore_boxes
from glip_export.model.boxes import anchors_at
from glip_export.model.fusion_head import with_prompt
from glip_export.model.glip import Glip, build_model
from glip_export.model.selection import level_candidates
from glip_export.model.swin_text import TextBlock
from glip_export.model.text_encoder import attended
from glip_export.model.text_layer import BertEncoderLayer, PassThrough
from glip_export.model.vl_fuse import VLFuse
from glip_export.parity.assignment import assign
from glip_export.prompt import Prompt

RELATIVE = 1e-4  # max|diff|/rms; the original in fp32 against itself in fp64: up to 3.9e-5
BOX, SCORE = 0.01, 2e-5  # pixels
LEVELS = range(3, 8)


@dataclass
class Comparison:
    """What was compared, and the names that were not yet."""

    case: OracleCase
    config: GlipConfig
    model: Glip
    left: set[str] = field(default_factory=set)

    def sampled(self, name: str, tensor: torch.Tensor | np.ndarray) -> None:
        assert self.case.compare(name, np.asarray(tensor)) < RELATIVE, name
        self.left.discard(name)

    def whole(self, name: str, array: np.ndarray) -> None:
        np.testing.assert_array_equal(array, self.case.stored[name], err_msg=name)
        self.left.discard(name)

    def detections(self, prefix: str, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """In any order: the original's means nothing."""
        theirs = {name: self.case.stored[f"{prefix}_{name}"] for name in ("boxes", "scores", "labels")}
        assert len(scores) == len(theirs["scores"]), prefix
        far = np.abs(boxes[:, None] - theirs["boxes"]).max(2) + 1e3 * np.abs(scores[:, None] - theirs["scores"])
        rows, columns = assign(far.astype(np.float64), labels[:, None] + 1 == theirs["labels"])
        assert len(rows) == len(scores), prefix
        np.testing.assert_array_equal(labels[rows] + 1, theirs["labels"][columns])
        np.testing.assert_allclose(boxes[rows], theirs["boxes"][columns], atol=BOX)
        np.testing.assert_allclose(scores[rows], theirs["scores"][columns], atol=SCORE)
        self.left -= {f"{prefix}_{name}" for name in theirs}


@pytest.fixture(scope="module", params=cases())
def comparison(request: pytest.FixtureRequest) -> Iterator[Comparison]:
    case = OracleCase(request.param)
    config = load_config(case.config, (), case.bert_config)
    state = {key.removeprefix("module."): torch.from_numpy(array) for key, array in case.weights().items()}
    model = build_model(config, Checkpoint(case.folder / "weights.pth", "", state))
    yield Comparison(case, config, model, {*case.sampled, *case.whole})


@pytest.mark.parametrize("folds", [True, False])
def test_every_number(comparison: Comparison, folds: bool) -> None:
    case, model, config = comparison.case, comparison.model, comparison.config
    comparison.left = {*case.sampled, *case.whole}
    pictures = case.pictures()
    batch = preprocess(pictures, config.image)
    comparison.sampled("image_batch", batch.images)
    comparison.whole("image_sizes", batch.sizes)
    (chunk,) = Prompt.of(case.prompt["names"]).chunks(config.text.max_query_len, config.text.separator)
    assert chunk.caption == case.prompt["caption"]
    length, count = config.text.max_query_len, len(pictures)
    ids = np.pad(chunk.input_ids, (0, length - case.tokens))[None].repeat(count, 0)
    mask = (np.arange(length) < case.tokens)[None].repeat(count, 0).astype(np.int64)
    seen = attended(config, torch.from_numpy(mask)).numpy()
    for name, array in (("input_ids", ids), ("attention_mask", mask), ("bert_masks", mask), ("head_masks", seen)):
        comparison.whole(name, array)
    model.fusion_head.fold(folds)
    with torch.inference_mode():
        run(comparison, torch.from_numpy(batch.images), torch.from_numpy(ids), torch.from_numpy(mask), batch.sizes)
    assert not comparison.left, f"{len(comparison.left)} tensors were not compared"


@contextmanager
def recorded(model: Glip, kind: type[torch.nn.Module]) -> Iterator[list[Any]]:
    """What the modules of a kind give, in order."""
    found: list[Any] = []
    hooks = [
        m.register_forward_hook(lambda *call: found.append(call[2])) for m in model.modules() if isinstance(m, kind)
    ]
    yield found
    for hook in hooks:
        hook.remove()


def run(c: Comparison, images: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, sizes: np.ndarray) -> None:
    """Each stage fed with the one before, as the original was."""
    model, head = c.model, c.model.fusion_head
    hidden = model.text_encoder(ids, mask)
    c.sampled("bert_hidden", hidden)
    c.sampled("bert_embedded", hidden * mask[..., None])
    swin = model.vision_backbone.swin
    c.sampled("swin_C2", swin.layers[0](swin.embed(images))[0].permute(0, 3, 1, 2))
    stages = swin(images, (hidden, attended(c.config, mask)))[:3]
    for level, stage in zip((3, 4, 5), stages, strict=True):
        c.sampled(f"swin_C{level}", stage)
    with recorded(model, TextBlock) as blocks:
        pyramid, head_text = model.encode_images(images, hidden, mask)
    for level, feature in zip(LEVELS, pyramid, strict=True):
        c.sampled(f"fpn_P{level}", feature)
    for index, (x, text) in enumerate(blocks):
        c.sampled(f"swin_stage5_block{index}_x", x.flatten(1, 2))
        c.sampled(f"swin_stage5_block{index}_text", text)
    if blocks:
        c.sampled("swin_lang", blocks[-1][1])

    text = with_prompt(head.tunable_linear, head_text)
    c.sampled("head_in_hidden", text)
    c.sampled("head_in_embedded", with_prompt(head.tunable_linear, hidden * mask[..., None]))
    features, seen = tuple(pyramid), attended(c.config, mask)
    for index, layer in enumerate(head.dyhead_tower):
        features, text = layer(features, text, seen)
        name = f"tower{index:02d}_{type(layer).__name__}"
        if isinstance(layer, PassThrough):  # the original runs a layer there whose text nobody reads
            c.left.discard(f"tower{index:02d}_BertEncoderLayer_lang")
            continue
        if isinstance(layer, VLFuse | BertEncoderLayer):
            c.sampled(f"{name}_lang", text)
        if not isinstance(layer, BertEncoderLayer):
            for level, feature in zip(LEVELS, features, strict=True):
                c.sampled(f"{name}_P{level}", feature)
    predictions = head.predict(tuple(pyramid), head_text, mask)
    for level, found in zip(LEVELS, predictions, strict=True):
        c.sampled(f"dot_product_logits_P{level}", found.token_logits)
        c.sampled(f"bbox_reg_P{level}", found.box_deltas)
        c.sampled(f"centerness_P{level}", found.centerness)

    detection = c.config.detection
    strides = list(zip(detection.anchor_sizes, detection.anchor_strides, strict=True))
    for level, feature, (size, stride) in zip(LEVELS, pyramid, strides, strict=True):
        height, width = feature.shape[2:]
        c.sampled(f"anchors_P{level}", anchors_at(torch.arange(height * width), width, size, stride))
    class_map = torch.from_numpy(c.case.class_map(mask.shape[1])).expand(len(images), -1, -1)
    image_sizes = torch.from_numpy(sizes)
    candidates = [
        level_candidates(level, class_map, image_sizes, detection, size, stride)
        for level, (size, stride) in zip(predictions, strides, strict=True)
    ]
    boxes, scores, labels, counts = head(tuple(pyramid), head_text, mask, class_map, image_sizes)
    for image, picture in enumerate(c.case.pictures()):
        scores_before = torch.cat([level.scores[image] for level in candidates])
        real = scores_before >= 0
        where, of_class = (
            torch.cat([part[image] for part in parts])[real].numpy()
            for parts in ([level.boxes for level in candidates], [level.labels for level in candidates])
        )
        c.detections(f"prenms{image}", where, scores_before[real].numpy(), of_class)
        kept = int(counts[image])
        places, values, names = (tensor[image, :kept].numpy() for tensor in (boxes, scores, labels))
        c.detections(f"result{image}", places, values, names)
        whole = restore_boxes(places, tuple(sizes[image]), picture.shape[:2])
        theirs = c.case.stored[f"result{image}_orig_boxes"]
        gaps = np.abs(whole[:, None] - theirs).max(2)
        assert gaps.min(1).max() < 2 * BOX and gaps.min(0).max() < 2 * BOX
        c.left.discard(f"result{image}_orig_boxes")
