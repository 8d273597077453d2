"""The C++ plugins carry the names of the Python side; their sources are checked, as no TensorRT headers are here."""

from __future__ import annotations

import re

import pytest
from host_kernels import PLUGINS

from glip_export.trt.nodes import DEFORM_IM2COL, NAMESPACE, NMS, VERSION

TENSORRT = PLUGINS / "tensorrt"


@pytest.mark.parametrize(
    ("name", "source", "fields"),
    [
        (DEFORM_IM2COL, "deform_im2col_plugin", {"stride": "kINT32"}),
        (NMS, "nms_plugin", {"iou_threshold": "kFLOAT32", "max_detections": "kINT32"}),
    ],
)
def test_names_and_fields_are_those_of_the_nodes(name: str, source: str, fields: dict[str, str]) -> None:
    assert f'kName = "{name}"' in (TENSORRT / f"{source}.h").read_text()
    written = re.findall(
        r'return \{"(\w+)", value, nvinfer1::PluginFieldType::(\w+), 1\}', (TENSORRT / f"{source}.cpp").read_text()
    )
    assert dict(written) == fields


def test_version_and_namespace_are_those_of_the_nodes() -> None:
    header = (TENSORRT / "plugin.h").read_text()
    assert f'kPluginVersion = "{VERSION}"' in header
    assert f'kPluginNamespace = "{NAMESPACE}"' in header
