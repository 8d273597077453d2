"""Pictures seen at several scales and mirrored (GLIP: TEST.USE_MULTISCALE): the passes, and what they find as one.

In each pass the pictures are resized as they were given, mirrored or not, padded as a batch and run; the fusion head
gives all candidates. Those of the wrong size are left out, the rest goes back to the pixels of the picture as given;
what all passes found is then merged, class by class (`results/multiscale_nms.py`). The best hundred are not cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from glip_export.config import GlipConfig, ImageConfig, MultiscaleConfig, SizeRange
from glip_export.errors import GlipExportError
from glip_export.image import U8, ImageBatch, pad, resize, restore_boxes
from glip_export.prompt import Prompt, TokenizedChunk
from glip_export.results.detections import Detections
from glip_export.results.multiscale_nms import Boxes, lost_classes, merged
from glip_export.runtime.encoded import EncodedImages, pair, selected
from glip_export.runtime.session import F32, I64
from glip_export.runtime.tokenized import Tokenized, sharing

Found = tuple[F32, F32, I64, I64]  # what the fusion head gives of a batch: boxes, scores, labels, count


@dataclass(frozen=True)
class Pass:
    """One way of looking at the pictures."""

    image: ImageConfig  # with the size of this pass
    sizes: SizeRange | None  # of the boxes that are kept, in this pass's pixels
    mirrored: bool


class EncodedPass(NamedTuple):
    """A batch of pictures in one pass, after the vision backbone."""

    one: Pass
    images: EncodedImages


@dataclass(frozen=True, eq=False)
class EncodedScales:
    """A batch of pictures after the vision backbone in every pass, in the memory of them all, ready for any prompt."""

    passes: tuple[EncodedPass, ...]

    @property
    def originals(self) -> I64:
        """(B, 2), h and w of each picture as given."""
        return self.passes[0].images.originals


def passes_of(config: GlipConfig) -> tuple[Pass, ...]:
    """All passes in their order: each scale, and the mirrored one after it."""
    own = config.multiscale
    ranges = own.ranges or (None,) * len(own.scales)
    return tuple(
        Pass(replace(config.image, min_size=scale, max_size=own.max_size), sizes, mirrored)
        for scale, sizes in zip(own.scales, ranges, strict=True)
        for mirrored in ((False, True) if own.flip else (False,))
    )


def batch_of(one: Pass, pictures: Sequence[U8], names: Sequence[str]) -> ImageBatch:
    """The pictures (H, W, 3), as given, as one pass has them; names: what errors call them."""
    resized = [resize(picture, one.image, name=name) for picture, name in zip(pictures, names, strict=True)]
    if one.mirrored:
        resized = [picture[:, ::-1] for picture in resized]
    return pad(resized, [(picture.shape[0], picture.shape[1]) for picture in pictures], one.image)


def detect_passes(
    passes: Iterable[EncodedPass],
    prompts: Sequence[Tokenized],
    find: Callable[[EncodedImages, TokenizedChunk], Found],
    config: MultiscaleConfig,
) -> list[Detections]:
    """Detections of each picture, in pixels of the picture as given; the passes are taken one at a time.

    prompts: of each picture. find: the fusion head over a batch.
    """
    groups = sharing(prompts)
    found: list[list[Boxes]] = [[] for _ in prompts]  # of a picture, in every pass and with every caption
    sizes: list[tuple[int, int]] = []
    for one, encoded in passes:
        sizes = [pair(original) for original in encoded.originals]
        for indices in groups:
            own = encoded if len(indices) == len(prompts) else selected(encoded, indices)
            for chunk in prompts[indices[0]].chunks:
                raw = find(own, chunk)
                for row, index in enumerate(indices):
                    seen = _seen(raw, row, pair(own.sizes[row]), sizes[index], one)
                    found[index].append(seen._replace(labels=seen.labels + chunk.first))
    return [
        _merged(parts, prompt.prompt.names, size, config)
        for parts, prompt, size in zip(found, prompts, sizes, strict=True)
    ]


def _seen(found: Found, row: int, resized: tuple[int, int], original: tuple[int, int], one: Pass) -> Boxes:
    """What one pass found on one picture and keeps, in pixels of the picture as given."""
    boxes, scores, labels, count = found
    n = int(count[row])
    boxes, scores, labels = boxes[row, :n], scores[row, :n], labels[row, :n]
    if one.mirrored:
        boxes = mirrored(boxes, resized[1])
    if one.sizes is not None:
        kept = within(boxes, one.sizes)
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    return Boxes(restore_boxes(boxes, resized, original), scores.copy(), labels)


def mirrored(boxes: F32, width: int) -> F32:
    """Boxes (n, 4) of a mirrored picture of that width in the picture itself: x becomes width - 1 - x."""
    x = np.float32(width) - boxes[:, [2, 0]] - np.float32(1)
    return np.stack([x[:, 0], boxes[:, 1], x[:, 1], boxes[:, 3]], axis=1)


def within(boxes: F32, sizes: SizeRange) -> np.ndarray:
    """(n,): whether a box's area, 1 added to its width and height, is between low^2 and high^2, neither reached."""
    sides = boxes[:, 2:] - boxes[:, :2] + np.float32(1)
    area = sides[:, 0] * sides[:, 1]
    return (area > np.float32(sizes.low**2)) & (area < np.float32(sizes.high**2))


def _merged(parts: Sequence[Boxes], names: tuple[str, ...], size: tuple[int, int], own: MultiscaleConfig) -> Detections:
    together = Boxes(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return Detections(*merged(together, own), classes=names, image_size=size)


def lost_names(prompt: Prompt, config: GlipConfig) -> tuple[str, ...]:
    """A line for a person where several scales leave names of the prompt out."""
    own = config.multiscale
    if not config.detection.several_scales or not (lost := lost_classes(len(prompt.names), own)):
        return ()
    which = (
        f"TEST.SELECT_CLASSES takes numbers {', '.join(map(str, own.select_classes))}"
        if own.select_classes
        else f"TEST.NUM_CLASSES {own.num_classes} takes the first {max(0, own.num_classes - 1)}"
    )
    return (f"nothing will be found of {lost} of the prompt's {len(prompt.names)} names: {which}",)


def check_one_scale(config: GlipConfig, what: str) -> None:
    """Raises GlipExportError where a bundle sees pictures at several scales; what: is to run it, and cannot."""
    if config.detection.several_scales:
        raise GlipExportError(
            f"{what} runs pictures at one scale, and this bundle at several (TEST.USE_MULTISCALE): it is for detect "
            "and eval; export another without"
        )
