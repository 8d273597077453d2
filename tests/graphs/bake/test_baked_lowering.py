"""A baked model in TensorRT's dialect still gives what it gave, with plugins and with native operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from compact_oracle import OracleCase

from glip_export.errors import BundleError, GlipExportError
from glip_export.graphs.bake import bake
from glip_export.graphs.contracts import BAKED
from glip_export.image import preprocess
from glip_export.prompt import Prompt
from glip_export.runtime.host_nms import finished
from glip_export.trt.baked import build_baked
from glip_export.trt.lowering import lower, with_reference_functions


@pytest.mark.parametrize(
    ("deform_conv", "nms"), [("plugin", "plugin"), ("gridsample", "native"), ("gridsample", "host")]
)
def test_lowered(tiny_bundle: Path, tiny_oracle: OracleCase, tmp_path: Path, deform_conv: str, nms: str) -> None:
    made = bake(tiny_bundle, Prompt.of("cat. remote control"), tmp_path / "baked.onnx")
    config = made.file.config
    images = preprocess(tiny_oracle.pictures()[:1], config.image).images
    lowered = lower(onnx_ir.load(made.file.path), BAKED, config, deform_conv=deform_conv, nms=nms)
    assert not {"DeformConv", "NonMaxSuppression"} & {node.op_type for node in lowered.graph}
    assert any(node.domain for node in lowered.graph) == (deform_conv == "plugin")
    runnable = onnx_ir.to_proto(with_reference_functions(lowered)).SerializeToString()
    outputs = onnxruntime.InferenceSession(runnable).run(None, {"images": images})
    if nms == "host":
        outputs = finished(outputs, config.detection)
    expected = onnxruntime.InferenceSession(str(made.file.path)).run(None, {"images": images})
    count = int(expected[3][0])
    assert count > 20 and int(outputs[3][0]) == count
    for found, right, tolerance in zip(outputs, expected, (0.02, 1e-4, 0, 0), strict=True):
        np.testing.assert_allclose(found, right, atol=tolerance)


def test_what_is_no_engine(tiny_bundle: Path, tmp_path: Path) -> None:
    pixels = bake(tiny_bundle, Prompt.of("cat"), tmp_path / "pixels.onnx", pixels=True).file
    for file, precision, words in ((pixels, None, "--uint8"), (pixels, "fp16", "bake it again")):
        with pytest.raises(BundleError, match=words):
            build_baked(file, "tensorrt_rtx", precision)
    with pytest.raises(GlipExportError, match="deform_conv fused is for a bundle's engines"):
        build_baked(pixels, "tensorrt_rtx", deform_conv="fused")
    assert not list(tmp_path.glob("*.engine"))
