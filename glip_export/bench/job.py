"""What one benchmark measures: the same for every backend that takes part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from glip_export.names import Name, words_of

PLAIN = "torch"  # the backend word of the reference as published, 256 tokens whatever the prompt
TRIMMED = "torch:trimmed"  # the same model on the prompt's own tokens
INT8 = "int8"
PRECISIONS = {"f32": "fp32", "f16": "fp16"}  # backends' own words for the same


@dataclass(frozen=True)
class Job:
    """One configuration; it travels to the workers as JSON."""

    bundle: str
    names: tuple[Name, ...]
    image_size: tuple[int, int]  # H, W of the padded network input
    batch: int = 1
    threads: int | None = None  # CPU threads; None: the backend's own default
    weights: str | None = None  # where the checkpoint is now, for torch
    prompts_per_image: int = 1
    cached_text: bool = False  # the prompt was used before: its text features are in the Detector's cache
    gpu_preprocess: bool = False  # where the backend has pictures on a GPU

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Job:
        """The inverse of to_json, after a trip through text."""
        height, width = value["image_size"]
        return cls(**{**value, "names": tuple(value["names"]), "image_size": (height, width)})

    def caption(self, separator: str) -> str:
        """All that is asked in one text, however many captions it takes."""
        return separator.join("".join(words_of(name, 1) or str(name)) for name in self.names)

    def prompts(self) -> list[list[Name]]:
        """The names of each prompt of one picture: the same names in turned order, so of the same length in tokens."""
        turns = (index % len(self.names) for index in range(self.prompts_per_image))
        return [[*self.names[turn:], *self.names[:turn]] for turn in turns]


def precision_of(backend: str, session_precision: str | None, bundle_precision: str) -> str:
    """fp32, bf16, fp16 or int8: what the backend word says (openvino:bf16), else the session, else the bundle.

    Of an int8 bundle int8, whatever the rest of it is computed in.
    """
    if bundle_precision == INT8:
        return INT8
    _, _, word = backend.partition(":")
    found = word if word in ("fp32", "f32", "bf16", "fp16", "f16") else session_precision or bundle_precision
    return PRECISIONS.get(found, found)
