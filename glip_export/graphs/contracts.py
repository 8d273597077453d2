"""THE table of the three graphs: names, axes and dtypes, written once.

Export, sessions, profiles and parity all read it. A letter is an axis that varies (B pictures, T tokens, K classes,
H and W pixels, H3..W7 the pyramid's sizes); C, L and D are fixed by the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glip_export.config import GlipConfig

LEVELS = ("p3", "p4", "p5", "p6", "p7")
STRIDE = 32  # H and W are multiples of it


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph."""

    name: str
    dtype: str  # a NumPy dtype's name
    axes: tuple[str | int, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One graph: the module it is exported from has the same name."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def input_names(self) -> list[str]:
        """In the order of the module's arguments, the pyramid's levels flattened."""
        return [tensor.name for tensor in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """In the order of the module's results."""
        return [tensor.name for tensor in self.outputs]


_PYRAMID = tuple(TensorSpec(level, "float32", ("B", "C", f"H{i}", f"W{i}")) for i, level in enumerate(LEVELS, start=3))
_MASK = TensorSpec("attention_mask", "int64", ("B", "T"))
_TEXT = TensorSpec("text_features", "float32", ("B", "T", "L"))

TEXT_ENCODER = GraphSpec("text_encoder", (TensorSpec("input_ids", "int64", ("B", "T")), _MASK), (_TEXT,))
VISION_BACKBONE = GraphSpec("vision_backbone", (TensorSpec("images", "float32", ("B", 3, "H", "W")),), _PYRAMID)
FUSION_HEAD = GraphSpec(
    "fusion_head",
    (
        *_PYRAMID,
        _TEXT,
        _MASK,
        TensorSpec("class_map", "float32", ("B", "T", "K")),
        TensorSpec("image_sizes", "int64", ("B", 2)),  # h, w of each unpadded resized picture
    ),
    (
        TensorSpec("boxes", "float32", ("B", "D", 4)),  # xyxy, resized pixels
        TensorSpec("scores", "float32", ("B", "D")),  # falling
        TensorSpec("labels", "int64", ("B", "D")),  # columns of class_map, -1 where empty
        TensorSpec("count", "int64", ("B",)),
    ),
)
GRAPHS = {graph.name: graph for graph in (TEXT_ENCODER, VISION_BACKBONE, FUSION_HEAD)}


def as_arguments(spec: GraphSpec, items: Sequence[Any]) -> tuple[Any, ...]:
    """One item an input, as the module takes them: the fusion head has the pyramid's levels as one argument."""
    if spec.input_names[: len(LEVELS)] == list(LEVELS):
        return tuple(items[: len(LEVELS)]), *items[len(LEVELS) :]
    return tuple(items)


def fixed_axes(config: GlipConfig) -> dict[str, int]:
    """The axes that the configuration fixes."""
    return {
        "C": config.head.channels,
        "L": config.text.bert.hidden_size,
        "D": config.detection.detections_per_image,
    }


def pyramid_axes(height: int, width: int) -> dict[str, int]:
    """The pyramid's sizes for pictures of height x width pixels: P3..P5 exact, P6 and P7 rounded up."""
    axes = {"H": height, "W": width}
    for level in range(3, 8):
        axes[f"H{level}"], axes[f"W{level}"] = (-(-size // 2**level) for size in (height, width))
    return axes


def output_shapes(
    spec: GraphSpec, given: Mapping[str, Sequence[int]], fixed: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """The shapes of a graph's outputs, by name, for the shapes of its inputs; fixed: `fixed_axes`.

    Raises ValueError for an input of another number of axes.
    """
    sizes: dict[Any, int] = {**fixed}
    for tensor in spec.inputs:
        shape = given[tensor.name]
        if len(shape) != len(tensor.axes):
            raise ValueError(f"{spec.name}: {tensor.name} has shape {tuple(shape)}, not {len(tensor.axes)} axes")
        sizes.update(zip(tensor.axes, shape, strict=True))
    if spec is VISION_BACKBONE:
        sizes.update(pyramid_axes(sizes["H"], sizes["W"]))
    return {
        tensor.name: tuple(axis if isinstance(axis, int) else sizes[axis] for axis in tensor.axes)
        for tensor in spec.outputs
    }
