"""The pictures and prompts that parity is checked on: packaged photos, so that every machine checks the same."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from glip_export.config import GlipConfig, ImageConfig
from glip_export.image import load_image, preprocess
from glip_export.parity.run import Inputs, TextInputs
from glip_export.prompt import Prompt, TokenizedChunk, class_map

Picture = NDArray[np.uint8]  # (H, W, 3) RGB

COCO_TOKENS = 194  # GLIP_FACTS 4: COCO's 80 names with separators, [CLS] and [SEP]
TWENTY = (
    "person. astronaut. space suit. flag. helmet. rocket. launch tower. smoke. cloud. sky. cup. saucer. spoon. coffee. "
    "wooden table. cat. eye. whisker. collar. model of a space shuttle"
)
COCO = (
    "person. bicycle. car. motorcycle. airplane. bus. train. truck. boat. traffic light. fire hydrant. stop sign. "
    "parking meter. bench. bird. cat. dog. horse. sheep. cow. elephant. bear. zebra. giraffe. backpack. umbrella. "
    "handbag. tie. suitcase. frisbee. skis. snowboard. sports ball. kite. baseball bat. baseball glove. skateboard. "
    "surfboard. tennis racket. bottle. wine glass. cup. fork. knife. spoon. bowl. banana. apple. sandwich. orange. "
    "broccoli. carrot. hot dog. pizza. donut. cake. chair. couch. potted plant. bed. dining table. toilet. tv. laptop. "
    "mouse. remote. keyboard. cell phone. microwave. oven. toaster. sink. refrigerator. book. clock. vase. scissors. "
    "teddy bear. hair drier. toothbrush"
)


@dataclass(frozen=True, eq=False)
class Case:
    """Pictures run as one padded batch with one prompt."""

    name: str
    pictures: tuple[Picture, ...]
    prompt: str
    image: ImageConfig = field(default_factory=ImageConfig)
    fixed_size: tuple[int, int] | None = None  # H, W of a bundle with a static picture size
    padding_tokens: int = 0  # masked tokens after the prompt's own, which must change nothing

    def inputs(self, config: GlipConfig) -> Inputs:
        """Preprocess the pictures and tokenize the prompt, as the detector does."""
        batch = preprocess(self.pictures, self.image, self.fixed_size)
        chunks = Prompt.of(self.prompt).chunks(config.text.max_query_len, config.text.separator, config.detection.chunk)
        texts = tuple(self._text_inputs(chunk, config) for chunk in chunks)
        return Inputs(batch.images, batch.sizes, texts, config.swin.fuses_text)

    def _text_inputs(self, chunk: TokenizedChunk, config: GlipConfig) -> TextInputs:
        tokens = len(chunk.input_ids)
        length = max(tokens, min(tokens + self.padding_tokens, config.text.max_query_len))
        return TextInputs(
            input_ids=np.pad(chunk.input_ids, (0, length - tokens)),  # 0 is [PAD]
            attention_mask=np.pad(np.ones(tokens, np.int64), (0, length - tokens)),
            class_map=class_map(chunk, config.detection.score_agg, length),
        )


def built_in_cases(config: GlipConfig, image_size: tuple[int, int] | None = None, quick: bool = False) -> list[Case]:
    """One to three pictures a batch, landscape and portrait, of several sizes, with 1, 2, 20 and 80 names.

    Sizes are shares of the configuration's own, of which one case has the full: the small ones take the same paths in a
    third of the time. image_size: H, W of a static bundle. quick: one small case.
    """
    full = config.image
    if quick:
        picture = _photo("cat", 4 / 3)
        return [Case("small landscape, two names", (picture,), "cat. collar", _scaled(full, 0.4), image_size)]
    small, middle = _scaled(full, 0.6), _scaled(full, 0.75)
    prompt, names = (COCO, "80 names") if config.text.max_query_len >= COCO_TOKENS else (TWENTY, "20 names")
    wide, square, tall = _photo("rocket", 16 / 9), _photo("coffee", 1.1), _photo("astronaut", 3 / 4)
    return [
        Case("landscape, one name", (_photo("cat", 3 / 2),), "cat", small, image_size),
        Case("portrait, two names", (tall,), "astronaut. space shuttle", full, image_size, padding_tokens=5),
        Case("two sizes, 20 names", (square, _photo("astronaut", 1.0)), TWENTY, middle, image_size),
        Case(f"three pictures, {names}", (wide, _photo("cat", 4 / 3), tall), prompt, small, image_size),
    ]


def _photo(name: str, aspect: float) -> Picture:
    """A packaged photo's middle, cropped to width / height = aspect."""
    picture = load_image((resources.files("glip_export") / "data" / "pictures" / f"{name}.jpg").read_bytes())
    height, width = picture.shape[:2]
    h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
    top, left = (height - h) // 2, (width - w) // 2
    return np.ascontiguousarray(picture[top : top + h, left : left + w])


def _scaled(image: ImageConfig, share: float) -> ImageConfig:
    divisor = image.size_divisor  # a picture smaller than that has no P7 to speak of
    return replace(
        image,
        min_size=max(divisor, round(image.min_size * share)),
        max_size=max(divisor, round(image.max_size * share)),
    )
