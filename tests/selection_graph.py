"""The fusion head after its predictions as a graph of its own, and predictions for it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx_ir
import torch

from glip_export.config import DetectionConfig, GlipConfig
from glip_export.graphs.contracts import FUSION_HEAD, GraphSpec, TensorSpec
from glip_export.graphs.export import trace
from glip_export.model.selection import LevelPredictions, select

STRIDES, SIZES = (8, 16), (64.0, 128.0)
PARTS = {"logits": "T", "deltas": 4, "centerness": 1}
SELECTION = GraphSpec(
    "selection",
    (
        *(
            TensorSpec(f"{part}{i}", "float32", ("B", axis, f"H{i}", f"W{i}"))
            for part, axis in PARTS.items()
            for i in (3, 4)
        ),
        *FUSION_HEAD.inputs[-2:],
    ),
    FUSION_HEAD.outputs,
)


class Selection(torch.nn.Module):
    """The fusion head after its predictions, on two levels."""

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        logits3: torch.Tensor,
        logits4: torch.Tensor,
        deltas3: torch.Tensor,
        deltas4: torch.Tensor,
        centerness3: torch.Tensor,
        centerness4: torch.Tensor,
        class_map: torch.Tensor,
        image_sizes: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        levels = [
            LevelPredictions(logits.flatten(2).transpose(1, 2), deltas, centerness)
            for logits, deltas, centerness in ((logits3, deltas3, centerness3), (logits4, deltas4, centerness4))
        ]
        return select(levels, class_map, image_sizes, self.config)


def exported(module: Selection, config: GlipConfig) -> onnx_ir.Model:
    """As a bundle has it."""
    model = SimpleNamespace(
        config=config,
        graph_module={SELECTION.name: module}.__getitem__,
        fusion_head=SimpleNamespace(fold=lambda *_: None),
        weights_sha256="",
    )
    return trace(model, SELECTION)


def predictions(aggregation: str, seed: int, tokens: int, classes: int) -> list[np.ndarray]:
    """Random logits, boxes and centerness; classes share tokens, some have many and one has none."""
    rng = np.random.default_rng(seed)
    batch, height, width = int(rng.integers(1, 4)), int(rng.integers(1, 9)), int(rng.integers(1, 9))
    sizes = [(height, width), (-(-height // 2), -(-width // 2))]
    arrays = [
        rng.normal(-1 if part == "logits" else 0, 2, (batch, tokens if axis == "T" else axis, *size))
        for part, axis in PARTS.items()
        for size in sizes
    ]
    class_map = np.zeros((batch, tokens, classes))
    for label in range(1, classes):
        chosen = rng.choice(tokens, int(rng.integers(1, tokens + 1)), replace=False)
        class_map[:, chosen, label] = 1 if aggregation == "MAX" else 1 / len(chosen)
    class_map[0, -1, -1] = 1  # pictures of one batch may have different prompts; the last token counts
    pictures = np.tile(np.array([height * 8 - 3, width * 8 - 1], np.int64), (batch, 1))
    return [array.astype(np.float32) for array in (*arrays, class_map)] + [pictures]
