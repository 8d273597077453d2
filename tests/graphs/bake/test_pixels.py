"""A baked model that takes pictures as they are prepares them as `image.py` does, to the bit in ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from compact_oracle import OracleCase
from PIL import Image

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.config import ImageConfig
from glip_export.errors import ImageError
from glip_export.graphs.bake import bake
from glip_export.graphs.bake.pixels import take_pixels
from glip_export.image import _fit as fit
from glip_export.image import pad, resize, resize_shape
from glip_export.prompt import Prompt

SIZES = ((48, 64), (64, 48), (100, 151), (20, 133), (33, 21), (50, 50), (301, 77), (150, 32))


def prepared(config: ImageConfig, image_size: tuple[int, int] | None) -> onnxruntime.InferenceSession:
    """The prepared pictures and their sizes, of a graph that does nothing else."""
    shapes = {"images": (onnx_ir.DataType.FLOAT, ["B", 3, "H", "W"]), "image_sizes": (onnx_ir.DataType.INT64, ["B", 2])}
    inputs = [
        onnx_ir.Value(name=name, type=onnx_ir.TensorType(dtype), shape=onnx_ir.Shape(shape))
        for name, (dtype, shape) in shapes.items()
    ]
    boxes = onnx_ir.Value(name="unit", type=inputs[0].type, shape=onnx_ir.Shape([1, 1, 4]))
    boxes.const_value = onnx_ir.tensor(np.ones((1, 1, 4), np.float32))
    nodes = [onnx_ir.node("Identity", [value]) for value in (boxes, *inputs)]
    for node, name, like in zip(nodes, ("boxes", "prepared", "sizes"), (boxes, *inputs), strict=True):
        node.name = node.outputs[0].name = name
        node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
    outputs = [node.outputs[0] for node in nodes]
    graph = onnx_ir.Graph(inputs, outputs, nodes=nodes, initializers=[boxes], opset_imports={"": 20}, name="prepared")
    take_pixels(graph, config, image_size)
    model = onnx_ir.to_proto(onnx_ir.Model(graph, ir_version=10))
    return onnxruntime.InferenceSession(model.SerializeToString())


def across_then_down(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's resize in the order of its releases before 13, which is the original's."""
    image = Image.fromarray(picture).resize((width, len(picture)), Image.Resampling.BILINEAR)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("image_size", [None, (96, 64)])
@pytest.mark.parametrize("bgr255", [True, False])
def test_to_the_bit(tiny_bundle: Path, image_size: tuple[int, int] | None, bgr255: bool) -> None:
    config = replace(Bundle.open(tiny_bundle).config.image, min_size=64, max_size=107, bgr255=bgr255)
    session = prepared(config, image_size)
    draw = np.random.default_rng(0)
    for height, width in SIZES:
        picture = draw.integers(0, 256, (height, width, 3), np.uint8)
        small = fit(resize_shape(height, width, config), image_size)
        assert (resize(picture, config, image_size) == across_then_down(picture, *small)).all()
        expected = pad([across_then_down(picture, *small)], [(height, width)], config, image_size)
        boxes, images, sizes = session.run(None, {"image": picture})
        np.testing.assert_array_equal(sizes, expected.sizes)
        np.testing.assert_array_equal(images, expected.images)
        y, x = height / small[0], width / small[1]
        np.testing.assert_allclose(boxes, np.array([[[x, y, x, y]]], np.float32), rtol=1e-6)


def test_as_the_detector(tiny_bundle: Path, tiny_oracle: OracleCase, tmp_path: Path) -> None:
    names = ["cat", "remote control"]
    made = bake(tiny_bundle, Prompt.of(names), tmp_path / "pixels.onnx", pixels=True)
    assert made.file.inputs == ("image",)
    detector = Detector.open(tiny_bundle, "onnxruntime")
    pictures = tiny_oracle.pictures()
    for one, other in zip(
        detector.detect(pictures, names, batch_size=1), Detector.open(made.file.path).detect(pictures), strict=True
    ):
        assert len(one) > 20
        np.testing.assert_array_equal(other.labels, one.labels)
        np.testing.assert_allclose(other.boxes, one.boxes, atol=0.02)
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-4)
    with pytest.raises(ImageError, match="too narrow"):
        Detector.open(made.file.path).detect([np.zeros((2, 3000, 3), np.uint8)])
