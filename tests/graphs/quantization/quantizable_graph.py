"""A graph with one of everything that can be int8."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir

WORDS, WIDTH, CHANNELS = 64, 32, 48


def quantizable_graph() -> onnx_ir.Model:
    """ids (1, T), image (1, C, H, W) -> text (1, T, 32), map (1, C, H, W), moved (1, C, H, W)."""
    random = np.random.default_rng(3)
    weights = {
        "table": random.normal(size=(WORDS, WIDTH)),
        "layer": random.normal(size=(WIDTH, WIDTH)) * np.linspace(0.01, 3, WIDTH),
        "kernel": random.normal(size=(CHANNELS, CHANNELS, 3, 3)),
        "kernel_bias": random.normal(size=CHANNELS),
        "deformed": random.normal(size=(CHANNELS, CHANNELS, 3, 3)),
    }
    make = onnx.helper.make_node
    nodes = [
        make("Gather", ["table", "ids"], ["embedding"], name="node_embedding"),
        make("MatMul", ["embedding", "layer"], ["text"], name="node_text"),
        make("Conv", ["image", "kernel", "kernel_bias"], ["map"], name="node_map", pads=[1, 1, 1, 1]),
        make("DeformConv", ["map", "deformed", "offset"], ["moved"], name="node_moved", pads=[1, 1, 1, 1]),
    ]
    module = {"node_text": "bert.layer", "node_map": "fpn.layer", "node_moved": "dyhead.deform"}
    for node in nodes:
        if node.name in module:
            node.metadata_props.add(key="glip.module", value=module[node.name])
    info, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    body = onnx.helper.make_graph(
        nodes,
        "quantizable",
        [
            info("ids", onnx.TensorProto.INT64, [1, "T"]),
            info("image", float32, [1, CHANNELS, "H", "W"]),
            info("offset", float32, [1, 18, "H", "W"]),
        ],
        [
            info("text", float32, [1, "T", WIDTH]),
            info("map", float32, [1, CHANNELS, "H", "W"]),
            info("moved", float32, [1, CHANNELS, "H", "W"]),
        ],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return onnx_ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))


def inputs() -> dict[str, np.ndarray]:
    """Of a seeded generator."""
    random = np.random.default_rng(5)
    return {
        "ids": np.arange(12)[None] * 5,
        "image": random.normal(size=(1, CHANNELS, 9, 11)).astype(np.float32),
        "offset": random.normal(size=(1, 18, 9, 11)).astype(np.float32),
    }
