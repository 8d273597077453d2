"""GLIPs beyond the published ones: what TensorRT is given of them, their engines, and their half precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from compact_oracle import OracleCase
from oracle_detections import check_detections
from static_shapes import data_dependent

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.cli.engine_table import profile_words
from glip_export.graphs.contracts import FUSION_HEAD, GRAPHS, GraphSpec, graphs_of, pyramid_axes
from glip_export.graphs.precision import convert
from glip_export.parity.cases import Case
from glip_export.parity.precision_check import check_precision
from glip_export.runtime.host_nms import finished
from glip_export.runtime.session import GraphSession
from glip_export.trt.build import build_engines
from glip_export.trt.flavor import is_installed
from glip_export.trt.lowering import lower
from glip_export.trt.recipe import recipe_for

needs_rtx = pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")


@pytest.fixture
def case(request: pytest.FixtureRequest) -> OracleCase:
    return OracleCase(request.param)


@pytest.fixture
def bundle(case: OracleCase, oracle_bundle: Callable[[OracleCase], Path]) -> Bundle:
    return Bundle.open(oracle_bundle(case), verify=False)


def of(*names: str) -> pytest.MarkDecorator:
    """For the small models of these names."""
    return pytest.mark.parametrize("case", names, indirect=True)


@needs_rtx
@pytest.mark.slow
@of("swint_v2_vl", "mha_s")
def test_engines_are_built(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    engines = build_engines(folder, "tensorrt_rtx", "fp16")
    assert engines.built == GRAPHS
    for name, spec in graphs_of(bundle.config).items():
        engine = engines.graphs[name]
        assert engine.inputs == spec.input_names and engine.outputs == spec.output_names
        assert list(engine.profiles[0]) == spec.input_names
        for amounts in engine.type_shares.values():
            assert amounts["float16"] >= 0.95 * sum(amounts.values())


class NativeSession(GraphSession):
    """ONNX Runtime with the fusion head in operators that TensorRT has itself, up to the candidates."""

    name = "native"

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.specs, self.detection = graphs_of(bundle.config), bundle.config.detection
        head = onnx_ir.load(bundle.graph_path(FUSION_HEAD.name))
        head = lower(head, FUSION_HEAD, bundle.config, deform_conv="gridsample", nms="host")
        onnx_ir.save(head, folder / "head.onnx", external_data="head.data")
        paths = {name: bundle.graph_path(name) for name in GRAPHS} | {FUSION_HEAD.name: folder / "head.onnx"}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.sessions = {name: onnxruntime.InferenceSession(str(path), options) for name, path in paths.items()}

    def _run(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> list[Any]:
        outputs = self.sessions[spec.name].run(None, dict(zip(spec.input_names, arrays, strict=True)))
        return finished(outputs, self.detection) if spec.name == FUSION_HEAD.name else outputs


@of("swint_v2_vl", "mha_s", "separate_outside")
def test_native_operators_give_the_originals_detections(case: OracleCase, bundle: Bundle, tmp_path: Path) -> None:
    detector = Detector(NativeSession(bundle, tmp_path), bundle.config)
    check_detections(case, detector.detect(case.pictures(), case.prompt["names"]))


@of("swint_v2_vl", "mha_s")
def test_no_shape_depends_on_values(bundle: Bundle) -> None:
    for name, spec in graphs_of(bundle.config).items():
        model = onnx_ir.load(bundle.graph_path(name))
        assert not set(data_dependent(lower(model, spec, bundle.config).graph))


@of("swint_v2_vl")
def test_the_recipe_has_the_bundles_own_shapes(bundle: Bundle) -> None:
    tokens = bundle.config.text.max_query_len
    assert tokens == 48
    (profile,) = recipe_for(bundle.config).profiles
    specs = graphs_of(bundle.config)
    backbone = profile.shapes(specs["vision_backbone"], bundle.config)
    assert list(backbone) == ["images", "text_features", "attention_mask"]
    assert backbone["text_features"] == {"min": [1, 1, 48], "opt": [1, 16, 48], "max": [4, tokens, 48]}
    head = profile.shapes(specs["fusion_head"], bundle.config)
    for point, side in (("min", 64), ("max", 1344)):
        axes = pyramid_axes(side, side, overlapping=True)
        for level in range(3, 8):
            assert head[f"p{level}"][point][2:] == [axes[f"H{level}"], axes[f"W{level}"]]
    assert head["p3"]["opt"] == [1, 32, 101, 152]  # one row more than 800 / 8
    assert profile_words(backbone) == "B 1/1/4, H 64/800/1344, W 64/1216/1344, T 1/16/48"
    assert profile_words(head) == "B 1/1/4, H 64/800/1344, W 64/1216/1344, T 1/16/48, K 1/8/256"


@of("swint_v2_vl", "swint_v2_ape", "mha_s", "separate_outside")
def test_half_precision_finds_the_detections_again(case: OracleCase, bundle: Bundle) -> None:
    graphs = {
        name: convert(onnx_ir.load(bundle.graph_path(name)), spec, "fp16")
        for name, spec in graphs_of(bundle.config).items()
    }
    cases = [Case(case.name, tuple(case.pictures()), ". ".join(case.prompt["names"]), bundle.config.image)]
    report = check_precision(bundle, graphs, cases, threads=1)
    assert report.passed and report.recall.counted > 50, report.line()
