"""The quick look at a fresh bundle: each graph on one small input, beside the reference. `verify` is the proof."""

from __future__ import annotations

import math

import numpy as np

from glip_export.config import GlipConfig
from glip_export.parity.metrics import Tolerance, compare
from glip_export.parity.pairing import Detections, pair_found
from glip_export.prompt import Prompt, class_map
from glip_export.runtime.session import Session

SMALL = (256, 320)  # height, width in pixels


def first_check(
    reference: Session, candidate: Session, config: GlipConfig, image_size: tuple[int, int] | None = None
) -> dict[str, float]:
    """The worst max|diff|/rms of each graph's outputs, each graph fed with the reference's inputs.

    The fusion head's is of the scores by rank, which detections with nearly equal scores may swap without harm; it is
    infinite if a detection differs beyond noise once they are paired. Pictures are noise of 256x320 pixels, or of the
    static bundle's image_size.
    """
    height, width = image_size or SMALL
    batch = 2
    images = np.random.default_rng(0).standard_normal((batch, 3, height, width), np.float32)
    chunk = Prompt.of("person. traffic light").chunks(config.text.max_query_len, config.text.separator)[0]
    input_ids = np.repeat(chunk.input_ids[None], batch, 0)
    mask = np.ones_like(input_ids)
    classes = np.repeat(class_map(chunk, config.detection.score_agg)[None], batch, 0)
    sizes = np.array([[height, width]] * batch, np.int64)

    text = reference.text_encoder(input_ids, mask)
    fuses_text = config.swin.fuses_text
    given = (images, text, mask) if fuses_text else (images,)
    backbone = reference.vision_backbone(*given)
    pyramid, head_text = (backbone[:-1], backbone[-1]) if fuses_text else (backbone, text)
    head = reference.fusion_head(pyramid, head_text, mask, classes, sizes)
    candidate_head = candidate.fusion_head(pyramid, head_text, mask, classes, sizes)
    theirs, ours = (
        [Detections(*part) for part in zip(*outputs[:3], strict=True)] for outputs in (head, candidate_head)
    )
    tolerance = Tolerance()
    same = all(
        pair_found(*both, tolerance, config.detection).within(tolerance) for both in zip(theirs, ours, strict=True)
    )
    return {
        "text_encoder": compare(text, candidate.text_encoder(input_ids, mask)).relative,
        "vision_backbone": max(
            compare(output, found).relative
            for output, found in zip(backbone, candidate.vision_backbone(*given), strict=True)
        ),
        "fusion_head": compare(head[1], candidate_head[1]).relative if same else math.inf,
    }
