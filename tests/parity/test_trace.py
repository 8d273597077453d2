"""The trace names the module that a fault was put into, and nothing where there is none."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import onnx_ir
import pytest

from glip_export.bundle import Bundle
from glip_export.graphs.modules import MODULE_KEY
from glip_export.model.glip import Glip
from glip_export.parity.cases import built_in_cases
from glip_export.parity.metrics import Tolerance
from glip_export.parity.trace import first_outside, trace


def test_a_right_bundle_has_no_first_difference(tiny_model: Glip, tiny_bundle: Path) -> None:
    inputs = built_in_cases(tiny_model.config, quick=True)[0].inputs(tiny_model.config)
    steps = trace(tiny_model, Bundle.open(tiny_bundle), inputs)
    assert first_outside(steps, Tolerance()) is None
    found = {step.module for step in steps}
    for expected in (
        "text_encoder.bert.encoder.layer.1",
        "vision_backbone.swin.layers.2.blocks.1",
        "vision_backbone.fpn.top_blocks.p6",
        "fusion_head.dyhead_tower.0",
        "fusion_head.dyhead_tower.2",
        "fusion_head.dyhead_tower.5.offset",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("graph", "module"),
    [
        ("vision_backbone", "swin.layers.1.blocks.1"),
        ("fusion_head", "dyhead_tower.3"),
        ("text_encoder", "bert.encoder.layer.1"),
    ],
)
def test_a_fault_is_found_where_it_is(
    tiny_model: Glip, tiny_bundle: Path, tmp_path: Path, graph: str, module: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_bundle, broken)
    model = onnx_ir.load(broken / f"{graph}.onnx")
    norm = next(
        node
        for node in model.graph
        if node.op_type == "LayerNormalization" and node.metadata_props.get(MODULE_KEY, "").startswith(module)
    )
    epsilon = onnx_ir.AttrFloat32("epsilon", 0.5)
    norm.attributes["epsilon"] = epsilon
    onnx_ir.save(model, broken / f"{graph}.onnx", external_data=f"{graph}.onnx.data")
    bundle = dataclasses.replace(Bundle.open(tiny_bundle), path=broken)
    inputs = built_in_cases(tiny_model.config, quick=True)[0].inputs(tiny_model.config)
    first = first_outside(trace(tiny_model, bundle, inputs), Tolerance())
    assert first is not None
    assert first.module == f"{graph}.{norm.metadata_props[MODULE_KEY]}"
