"""THE table of the three graphs: names, axes and dtypes, written once.

Export, sessions, profiles and parity all read it. A letter is an axis that varies (B pictures, T tokens, K classes,
H and W pixels, H3..W7 the pyramid's sizes); C, D, L (of the text encoder's features) and F (of what the head reads of
the text) are fixed by the configuration, which also decides whether the backbone fuses text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from glip_export.bundle import BakedFile, Bundle
from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError

LEVELS = ("p3", "p4", "p5", "p6", "p7")
DYCONV = "GlipDyConv"  # a whole DyConv block as one node; as in trt/nodes.py, which is above this module
STRIDE = 32  # H and W are multiples of it
MAX_CELLS = 256  # a side of a picture in units of STRIDE: 8192 pixels


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
    overlapping: bool = False  # a backbone whose patches overlap (Swin v2): its maps are not H/4

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
_IMAGES = TensorSpec("images", "float32", ("B", 3, "H", "W"))

TEXT_ENCODER = GraphSpec("text_encoder", (TensorSpec("input_ids", "int64", ("B", "T")), _MASK), (_TEXT,))
VISION_BACKBONE = GraphSpec("vision_backbone", (_IMAGES,), _PYRAMID)
TEXT_FUSING_BACKBONE = GraphSpec(  # Swin's versions vl and v2_vl
    "vision_backbone",
    (_IMAGES, _TEXT, _MASK),
    (*_PYRAMID, TensorSpec("fused_text_features", "float32", ("B", "T", "F"))),
)
FUSION_HEAD = GraphSpec(
    "fusion_head",
    (
        *_PYRAMID,
        TensorSpec("text_features", "float32", ("B", "T", "F")),  # the encoder's, or the backbone's where it fuses text
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
_PIXELS = TensorSpec("image", "uint8", ("H", "W", 3))  # of a baked model that resizes by itself
BAKED = GraphSpec("baked", (_IMAGES, FUSION_HEAD.inputs[-1]), FUSION_HEAD.outputs)  # graphs/bake: a vocabulary is fixed
GRAPHS = (TEXT_ENCODER.name, VISION_BACKBONE.name, FUSION_HEAD.name)  # in the order of work


@cache
def graphs_of(config: GlipConfig) -> dict[str, GraphSpec]:
    """The three graphs of a bundle, by name, in the order of work."""
    backbone = TEXT_FUSING_BACKBONE if config.swin.fuses_text else VISION_BACKBONE
    graphs = (TEXT_ENCODER, replace(backbone, overlapping=config.swin.is_v2), FUSION_HEAD)
    return {graph.name: graph for graph in graphs}


def specs_of(opened: Bundle | BakedFile) -> dict[str, GraphSpec]:
    """The graphs of a bundle, or the one of a baked model, by name."""
    if not isinstance(opened, BakedFile):
        return graphs_of(opened.config)
    inputs = (*BAKED.inputs, _PIXELS)
    return {BAKED.name: replace(BAKED, inputs=tuple(tensor for tensor in inputs if tensor.name in opened.inputs))}


def as_arguments(spec: GraphSpec, items: Sequence[Any]) -> tuple[Any, ...]:
    """One item an input, as the module takes them: the fusion head has the pyramid's levels as one argument."""
    if spec.input_names[: len(LEVELS)] == list(LEVELS):
        return tuple(items[: len(LEVELS)]), *items[len(LEVELS) :]
    return tuple(items)


def fixed_axes(config: GlipConfig) -> dict[str, int]:
    """The axes that the configuration fixes."""
    return {
        "C": config.head.channels,
        "L": config.encoded_width,
        "F": config.head_width,
        "D": config.detection.most_detections,
    }


def pyramid_axes(height: int, width: int, overlapping: bool = False) -> dict[str, int]:
    """The pyramid's sizes for pictures of height x width pixels, each level half of the one before, rounded up.

    overlapping: of Swin v2, whose first map is not a quarter of the picture (`GraphSpec.overlapping`).
    """
    axes = {"H": height, "W": width}
    sizes = [(7 * -(-size // 7) - 3) // 4 + 1 if overlapping else -(-size // 4) for size in (height, width)]
    for level in range(3, 8):
        sizes = [-(-size // 2) for size in sizes]
        axes[f"H{level}"], axes[f"W{level}"] = sizes
    return axes


def check_image_size(image_size: tuple[int, int]) -> None:
    """Raises GlipExportError unless both sides are multiples of 32 from 64 to 8192 pixels."""
    if all(side % STRIDE == 0 and 2 <= side // STRIDE <= MAX_CELLS for side in image_size):
        return
    height, width = (min(max(-(-side // STRIDE), 2), MAX_CELLS) * STRIDE for side in image_size)
    raise GlipExportError(
        f"an image size of {image_size[0]}x{image_size[1]} cannot be: "
        f"both sides are multiples of {STRIDE}; the next is {height}x{width}"
    )


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
    if spec.name == VISION_BACKBONE.name:
        sizes.update(pyramid_axes(sizes["H"], sizes["W"], spec.overlapping))
    return {
        tensor.name: tuple(axis if isinstance(axis, int) else sizes[axis] for axis in tensor.axes)
        for tensor in spec.outputs
    }
