"""A bundle of two graphs and an engine, small enough to write in every test."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import onnx

from glip_export.bundle import Bundle, Graph, Weights, write_manifest
from glip_export.config import DetectionConfig, GlipConfig, ImageConfig

CONFIG = GlipConfig(
    name="tiny", image=ImageConfig(min_size=96, std=(1.0, 2.0, 3.0)), detection=DetectionConfig(score_agg="MAX")
)
WEIGHTS = Weights("/models/glip tiny.pth", hashlib.sha256(b"weights").hexdigest())


def graph(name: str, data_file: str | None = None) -> bytes:
    """An ONNX file that adds 1024 weights, its own or those of an external file."""
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[1024])
    if data_file is None:
        weights.raw_data = bytes(4096)
    else:
        weights.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", data_file), ("offset", "0"), ("length", "4096")):
            weights.external_data.add(key=key, value=value)
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1024]) for n in "xy")
    body = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], name, [x], [y], [weights])
    opset = onnx.helper.make_opsetid("", 20)
    content: bytes = onnx.helper.make_model(body, opset_imports=[opset], ir_version=10).SerializeToString()
    return content


def fill(folder: Path, **changes: Any) -> Bundle:
    """Write a bundle of two graphs, one with external data, and an engine in a subfolder."""
    (folder / "engines").mkdir(parents=True, exist_ok=True)
    (folder / "text_encoder.onnx").write_bytes(graph("text_encoder"))
    (folder / "fusion_head.onnx").write_bytes(graph("fusion_head", "fusion_head.onnx.data"))
    (folder / "fusion_head.onnx.data").write_bytes(bytes(range(256)) * 16)
    (folder / "engines" / "fp16.engine").write_bytes(b"engine")
    graphs = [
        Graph("text_encoder", "text_encoder.onnx", opset=20, nodes=1, parameters=1024, seconds=0.5),
        Graph("fusion_head", "fusion_head.onnx", opset=20, nodes=1, parameters=1024, seconds=1.25),
    ]
    fields: dict[str, Any] = {"name": "glip_tiny", "config": CONFIG, "weights": WEIGHTS, "graphs": graphs}
    return write_manifest(folder, **{**fields, **changes})
