"""The lowered fusion head of a bundle of several scales: it ends at the candidates, or ranks them all itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from test_lowering import feed, open_session

from glip_export import Bundle
from glip_export.graphs.contracts import FUSION_HEAD
from glip_export.runtime.host_nms import finished
from glip_export.trt.lower_selection import CANDIDATES
from glip_export.trt.lowering import lower, with_reference_functions


@pytest.fixture(scope="module")
def bundle(several_scales_bundle: Path) -> Bundle:
    return Bundle.open(several_scales_bundle)


@pytest.fixture(scope="module")
def original(bundle: Bundle) -> onnxruntime.InferenceSession:
    return open_session(bundle.graph_path("fusion_head"))


@pytest.mark.parametrize("nms", ["plugin", "host"])
def test_equals_the_bundle(original: onnxruntime.InferenceSession, bundle: Bundle, tmp_path: Path, nms: str) -> None:
    head, config = onnx_ir.load(bundle.graph_path("fusion_head")), bundle.config
    model = lower(head, FUSION_HEAD, config, nms=nms)
    kinds = {node.op_type for node in model.graph.all_nodes()}
    assert kinds.isdisjoint({"NonMaxSuppression", "GlipNms"}) and "GlipDeformIm2Col" in kinds
    names = [value.name for value in model.graph.outputs]
    assert names == list(CANDIDATES if nms == "host" else FUSION_HEAD.output_names)
    assert [*model.graph.outputs[0].shape] == ["B", 5 * config.detection.pre_nms_top_n, 4]
    path = tmp_path / "head.onnx"
    onnx_ir.save(with_reference_functions(model), path, external_data="head.data")
    arrays = feed(config, 7, 16, 5)
    expected, given = original.run(None, arrays), open_session(path).run(None, arrays)
    if nms == "host":
        assert not (np.diff(given[1]) <= 0).all()  # not ranked yet
        given = finished(given, config.detection)
    assert expected[3].sum() > 100
    for theirs, ours, tensor in zip(expected, given, FUSION_HEAD.outputs, strict=True):
        assert ours.dtype == tensor.dtype and ours.shape == theirs.shape
    np.testing.assert_array_equal(given[3], expected[3])
    np.testing.assert_allclose(given[1], expected[1], atol=1e-5)
    for index, count in enumerate(expected[3]):
        assert (given[2][index, count:] == -1).all() and not given[0][index, count:].any()
        ours, theirs = (  # those of nearly one score may have changed places
            np.column_stack([part[2][index, :count], part[0][index, :count]]) for part in (given, expected)
        )
        far = np.abs(ours[:, None] - theirs).max(2).min(1)
        assert (far < 0.02).all()
