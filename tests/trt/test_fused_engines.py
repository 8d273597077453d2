"""deform_conv "fused": what the fusion head becomes, what is refused, and its engines by TensorRT for RTX itself."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from plugins.drawn_dyconv import pyramid
from pretend_builder import Pretend

from glip_export.bundle import Bundle
from glip_export.errors import GlipExportError
from glip_export.graphs import dyconv_node
from glip_export.graphs.contracts import FUSION_HEAD
from glip_export.graphs.modules import MODULE_KEY, ModuleGraph
from glip_export.graphs.precision import convert
from glip_export.trt.build import build_engines, plan_build
from glip_export.trt.dyconv_launches import DyConvSizes, dyconv_workspace_bytes
from glip_export.trt.engine_set import read_engine_set
from glip_export.trt.flavor import is_installed
from glip_export.trt.launches import MAX_GRID
from glip_export.trt.lowering import fuse_for_plugins, lower
from glip_export.trt.nodes import DEFORM_IM2COL, DYCONV, NMS
from glip_export.trt.recipe import Range, recipe_for

needs_rtx = pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture
def head(bundle: Bundle) -> onnx_ir.Model:
    return onnx_ir.load(bundle.graph_path("fusion_head"))


def lowered(head: onnx_ir.Model, bundle: Bundle, precision: str) -> onnx_ir.Model:
    fuse_for_plugins(head, precision)
    return lower(convert(head, FUSION_HEAD, precision), FUSION_HEAD, bundle.config, deform_conv="fused")


def plugins_of(model: onnx_ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph if node.domain)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_each_block_is_one_plugin_of_one_type(head: onnx_ir.Model, bundle: Bundle, precision: str) -> None:
    model = lowered(head, bundle, precision)
    assert plugins_of(model) == {DYCONV: bundle.config.head.num_convs, NMS: 1}
    (kind,) = {value.dtype for node in model.graph if node.op_type == DYCONV for value in node.inputs}  # type: ignore
    assert kind.numpy() == {"fp32": np.float32, "fp16": np.float16}[precision]


def test_a_block_without_a_kernel_keeps_its_columns(head: onnx_ir.Model, bundle: Bundle, monkeypatch) -> None:
    last = [block.name for block in ModuleGraph(head).dyconvs()][-1]
    has_kernel = dyconv_node._has_kernel
    monkeypatch.setattr(dyconv_node, "_has_kernel", lambda block: block.name != last and has_kernel(block))
    model = lowered(head, bundle, "fp16")
    assert plugins_of(model) == {DYCONV: bundle.config.head.num_convs - 1, DEFORM_IM2COL: 13, NMS: 1}
    columns = [node for node in model.graph if node.op_type == DEFORM_IM2COL]
    assert all(node.metadata_props[MODULE_KEY].startswith(last) for node in columns)


def test_what_has_no_kernel_is_refused_before_anything_is_built(tiny_copy: Path, monkeypatch) -> None:
    pretend = Pretend(monkeypatch)
    with pytest.raises(GlipExportError, match="fused is for fp16 and fp32, not bf16: choose plugin"):
        plan_build(tiny_copy, precision="bf16", deform_conv="fused")
    monkeypatch.setattr(dyconv_node, "CHANNEL_UNIT", 128)
    with pytest.raises(GlipExportError, match="our kernels take no DyConv block of this model") as caught:
        build_engines(tiny_copy, deform_conv="fused")
    assert "\n" not in str(caught.value) and not pretend.asked


@pytest.mark.parametrize("place", [0, 1])
def test_a_profile_too_large_for_the_kernels_is_refused_before_anything_is_built(
    tiny_copy: Path, monkeypatch, place: int
) -> None:
    pretend = Pretend(monkeypatch)
    made_by = recipe_for(Bundle.open(tiny_copy).config)
    (fits,) = made_by.profiles
    profiles = [fits, fits]
    profiles[place] = dataclasses.replace(fits, B=Range(1, 1, MAX_GRID + 1))
    recipe = dataclasses.replace(made_by, profiles=tuple(profiles))
    plan_build(tiny_copy, recipe=recipe)  # the other forms have kernels for it
    with pytest.raises(GlipExportError, match=f"too large for the DyConv kernels: {MAX_GRID + 1} images") as caught:
        build_engines(tiny_copy, recipe=recipe, deform_conv="fused")
    assert made_by.name in str(caught.value) and "\n" not in str(caught.value) and not pretend.asked
    profiles[place] = dataclasses.replace(fits, B=Range(1, 1, MAX_GRID))
    plan_build(tiny_copy, recipe=dataclasses.replace(recipe, profiles=tuple(profiles)), deform_conv="fused")


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_engines_are_built_and_say_so(tiny_copy: Path, precision: str) -> None:
    engines = build_engines(tiny_copy, "tensorrt_rtx", precision, deform_conv="fused")
    assert engines.deform_conv == "fused"
    assert engines == read_engine_set(Bundle.open(tiny_copy), "tensorrt_rtx", precision)
    content = engines.engine_path("fusion_head").read_bytes()
    assert b"GlipDyConv" in content and b"GlipNms" in content and b"GlipDeformIm2Col" not in content
    dtype = {"fp16": "float16", "fp32": "float32"}[precision]
    for amounts in engines.graphs["fusion_head"].type_shares.values():
        assert amounts[dtype] >= 0.95 * sum(amounts.values())


# Prints, of each GlipDyConv that is configured, its tensors' types and formats, and the workspace that it asks for.
WATCHED = """
import json, sys
from glip_export.trt import builder, plugins

plain = plugins.dyconv_plugin


def watched(trt):
    class DyConv(plain(trt)):
        def configure_plugin(self, inputs, outputs):
            tensors = [tensor.desc for tensor in (*inputs, *outputs)]
            told = [[tensor.type.name, tensor.format.name] for tensor in tensors]
            maps = [list(tensor.max) for tensor in inputs[:5]]
            print(json.dumps([told, maps, self.get_workspace_size(inputs, outputs)]))

    return DyConv


plugins.dyconv_plugin = watched
builder.build(builder.Job(**json.loads(sys.stdin.read())), lambda step: None)
"""


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "kind", "last"), [("fp16", "HALF", "HWC8"), ("fp32", "FLOAT", "HWC")])
def test_the_builder_gives_maps_channels_last(tiny_copy: Path, precision: str, kind: str, last: str) -> None:
    plan = plan_build(tiny_copy, "tensorrt_rtx", precision, deform_conv="fused")
    job = dataclasses.replace(plan.jobs["fusion_head"], engine=str(tiny_copy / "head.engine"))
    told = json.dumps(dataclasses.asdict(job))
    done = subprocess.run([sys.executable, "-c", WATCHED], input=told, check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    assert len(lines) >= plan.bundle.config.head.num_convs
    (profile,) = plan.recipe.profiles
    levels, head = tuple(pyramid(profile.H.max // 8, profile.W.max // 8)), plan.bundle.config.head
    sizes = DyConvSizes(profile.B.max, head.channels, head.group_norm_groups, levels)
    for tensors, maps, workspace in lines:
        assert tensors == [[kind, last]] * 5 + [[kind, "LINEAR"]] * 20 + [[kind, last]] * 5
        assert maps == [[profile.B.max, head.channels, *size] for size in levels]
        assert workspace == dyconv_workspace_bytes({"HALF": "float16", "FLOAT": "float32"}[kind], sizes)
