"""What every row is given: pictures on the device, a prompt's tokens, and how much arithmetic that asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from glip_export.config import GlipConfig
from glip_export.model.glip import Glip
from glip_export.parity.cases import COCO
from glip_export.prompt import Prompt, class_map

PROMPTS = {"4 names": "person. bicycle. traffic light. hair drier", "COCO": COCO}
STAGES = ("text", "backbone", "head")


@dataclass(frozen=True)
class Work:
    """A batch of pictures (noise, as the network takes them) and one caption for all of them."""

    prompt: str  # one of PROMPTS
    images: torch.Tensor  # f32 (B, 3, H, W), on the device
    input_ids: np.ndarray  # int64 (1, T), real tokens alone
    class_map: np.ndarray  # f32 (1, T, K)

    @property
    def batch(self) -> int:
        """B."""
        return len(self.images)

    @property
    def tokens(self) -> int:
        """T."""
        return self.input_ids.shape[1]

    @property
    def name(self) -> str:
        """How files and tables call it."""
        return f"batch {self.batch}, {self.prompt}"

    def padded_ids(self, tokens: int) -> np.ndarray:
        """input_ids with [PAD]s up to (1, tokens)."""
        return np.pad(self.input_ids, ((0, 0), (0, tokens - self.tokens)))

    def head_inputs(self, tokens: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """attention_mask (B, T), class_map (B, T, K), image_sizes (B, 2); T padded to `tokens` where that is more."""
        more = max(0, tokens - self.tokens)
        mask = np.pad(np.ones((self.batch, self.tokens), np.int64), ((0, 0), (0, more)))
        maps = np.pad(np.repeat(self.class_map, self.batch, 0), ((0, 0), (0, more), (0, 0)))
        sizes = np.repeat(np.array([self.images.shape[2:]], np.int64), self.batch, 0)
        return mask, maps, sizes


def make_work(
    config: GlipConfig, batch: int, size: tuple[int, int], prompt: str, device: str | torch.device, seed: int = 0
) -> Work:
    """size: H, W, multiples of 32. A model of fewer tokens than the prompt has gets the first caption alone."""
    draw = torch.Generator().manual_seed(seed)
    # A low map enlarged, and noise: large shapes as well as texture, with the spread of a normalised picture.
    coarse = torch.randn((batch, 3, max(1, size[0] // 64), max(1, size[1] // 64)), generator=draw)
    images = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    images += 0.3 * torch.randn((batch, 3, *size), generator=draw)
    chunk = Prompt.of(PROMPTS[prompt]).chunks(config.text.max_query_len, config.text.separator)[0]
    maps = class_map(chunk, config.detection.score_agg)[None]
    return Work(prompt, images.to(device), chunk.input_ids[None], maps)


def arithmetic(config: GlipConfig, work: Work) -> dict[str, dict[str, float]]:
    """By stage, of the folded form: "gflop" (two a multiply-add) and "mb", what a perfect program would move.

    mb: each product's operands and result once, in half precision. The deformable convolutions count with their
    columns read; sampling, softmax, norms and elementwise work count nothing. One caption's text for the whole batch.
    """
    model = _without_weights(config)
    images = torch.empty_like(work.images, device="meta")
    ids = torch.empty((1, work.tokens), dtype=torch.int64, device="meta")
    mask = torch.ones_like(ids).expand(work.batch, -1)
    made: dict[str, Any] = {}

    def text() -> None:
        made["text"] = model.text_encoder(ids, mask[:1]).expand(work.batch, -1, -1)

    def backbone() -> None:
        made["features"] = model.vision_backbone(images)

    def head() -> None:
        model.fusion_head.predict(made["features"], made["text"], mask)

    return {name: _count(stage) for name, stage in zip(STAGES, (text, backbone, head), strict=True)}


@cache
def _without_weights(config: GlipConfig) -> Glip:
    """The folded model, for shapes alone."""
    with torch.device("meta"):
        model = Glip(config).eval().requires_grad_(False)
    model.fusion_head.fold()
    return model


def _count(stage: Callable[[], None]) -> dict[str, float]:
    flops, moved = FlopCounterMode(display=False), _Moved()
    with torch.device("meta"), torch.inference_mode(False), torch.no_grad(), moved, flops:
        stage()
    return {"gflop": flops.get_total_flops() / 1e9, "mb": 2 * moved.values / 1e6}


class _Moved(TorchDispatchMode):
    """Counts the values that products read and write."""

    PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution")

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in self.PRODUCTS:
            tensors = [out, *(value for value in args if isinstance(value, torch.Tensor))]
            self.values += sum(prod(tensor.shape) for tensor in tensors)
        return out
