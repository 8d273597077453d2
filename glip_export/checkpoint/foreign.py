"""What a weights file that is not GLIP's may be, told from its keys: a guess for the error's one line."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Keys of GLIP, the original's and mmdetection's: with one of them, what is wrong is for the matching to tell.
_GLIP = re.compile(r"language_backbone\.|rpn\.head\.dyhead_tower\.|bbox_head\.head\.dyhead_tower\.")

_DECODER = r"(transformer\.|model\.)?decoder\.layers\.\d+\."  # of a DETR
# A model, and beginnings of keys, of each of which it has one. The first that fits is told: what is built from others
# stands above them.
_MODELS = (
    ("Grounding DINO", (r"(transformer\.|model\.)?encoder\.(fusion_layers\.\d|layers\.\d+\.fusion_layer\.)",)),
    ("OWL-ViT", (r"owlv(it|2)\.",)),
    ("Segment Anything (SAM)", (r"(image|vision)_encoder\.", r"(sam_)?mask_decoder\.")),
    ("CLIP", (r"visual\.|visual_projection\.", r"token_embedding\.|text_model\.embeddings\.token_embedding\.")),
    ("YOLOS", (r"vit\.embeddings\.detection_tokens",)),
    ("RT-DETR", (r"(model\.)?decoder\.(query_pos_head|dec_bbox_head)\.", r"(model\.)?encoder(\.|_)input_proj\.")),
    ("Deformable DETR or one of its kind", (rf"{_DECODER}(cross|encoder)_attn\.sampling_offsets\.",)),
    ("DETR", (rf"{_DECODER}(multihead|encoder)_attn\.", r"class_embed\.|class_labels_classifier\.")),
    ("a YOLO of Ultralytics", (r"(model\.)+\d+\.(conv|cv\d|m)\.",)),
    ("a detector of Detectron2", (r"backbone\.bottom_up\.|proposal_generator\.",)),
    ("a detector of torchvision", (r"roi_heads\.box_predictor\.|head\.classification_head\.", r"backbone\.body\.")),
    ("an R-CNN of maskrcnn-benchmark", (r"roi_heads\.box\.", r"rpn\.")),
    ("a detector of mmdetection", (r"(bbox|roi|rpn)_head\.", r"backbone\.")),
    (
        "Swin Transformer, a backbone alone",
        (r"(backbone\.|swin\.|encoder\.)*layers\.\d+\.blocks\.\d+\.att(n|ention)\.",),
    ),
    ("BERT, a language model alone", (r"(bert\.)?embeddings\.word_embeddings\.",)),
)
# Packages whose files are pickled models, code and all.
_PACKAGES = {
    "ultralytics": "a YOLO of Ultralytics",
    "models": "a YOLO of Ultralytics",  # YOLOv5's
    "detectron2": "a detector of Detectron2",
    "torchvision": "a model of torchvision",
    "transformers": "a model of Hugging Face's transformers",
}


def foreign_model(keys: Iterable[str]) -> str | None:
    """The name of another model whose state dict (keys without `module.`) this looks like; None if GLIP's, or none."""
    keys = tuple(keys)
    if _any(_GLIP, keys):
        return None
    return next((name for name, parts in _MODELS if all(_any(re.compile(part), keys) for part in parts)), None)


def foreign_package(name: str) -> str | None:
    """The name of another model whose pickled code names `name`, a dotted path; None if nothing is known of it."""
    return _PACKAGES.get(name.split(".", maxsplit=1)[0])


def _any(pattern: re.Pattern[str], keys: tuple[str, ...]) -> bool:
    return any(map(pattern.match, keys))
