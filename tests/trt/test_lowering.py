"""The lowered fusion head of a bundle: its form, and that it gives what the bundle's own graph gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import TensorProto
from static_shapes import data_dependent

from glip_export import Bundle, GlipExportError
from glip_export.config import GlipConfig
from glip_export.graphs.contracts import FUSION_HEAD, graphs_of, pyramid_axes
from glip_export.graphs.export import MODULE_KEY
from glip_export.graphs.precision import convert
from glip_export.parity.metrics import Tolerance
from glip_export.parity.pairing import Detections, pair
from glip_export.parity.recall import found_again, together
from glip_export.runtime.host_nms import finish
from glip_export.trt.lower_selection import CANDIDATES
from glip_export.trt.lowering import lower, with_reference_functions
from glip_export.trt.nodes import DEFORM_IM2COL, DOMAIN, NMS

SPECS = graphs_of(GlipConfig())  # of the published models

FORMS = [("plugin", "plugin"), ("plugin", "host"), ("gridsample", "plugin"), ("gridsample", "host")]
TOLERANCE = Tolerance(box_px=0.02, score=1e-4)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def head(bundle: Bundle) -> onnx_ir.Model:
    return onnx_ir.load(bundle.graph_path("fusion_head"))


@pytest.fixture(scope="module", params=FORMS, ids="/".join)
def lowered(request: pytest.FixtureRequest, head: onnx_ir.Model, bundle: Bundle) -> tuple[onnx_ir.Model, str, str]:
    deform_conv, nms = request.param
    return lower(head, FUSION_HEAD, bundle.config, deform_conv=deform_conv, nms=nms), deform_conv, nms


def open_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def original(bundle: Bundle) -> onnxruntime.InferenceSession:
    return open_session(bundle.graph_path("fusion_head"))


@pytest.fixture(scope="module")
def runnable(
    lowered: tuple[onnx_ir.Model, str, str], tmp_path_factory: pytest.TempPathFactory
) -> onnxruntime.InferenceSession:
    path = tmp_path_factory.mktemp("lowered") / "head.onnx"
    onnx_ir.save(with_reference_functions(lowered[0]), path, external_data="head.data")
    onnx.checker.check_model(str(path), full_check=True)
    return open_session(path)


def feed(config: GlipConfig, seed: int, tokens: int, classes: int) -> dict[str, np.ndarray]:
    """A batch of noise, a caption of which the last picture has half, classes of 1 to 3 tokens or of none."""
    rng = np.random.default_rng(seed)
    batch, height, width = int(rng.integers(1, 4)), 32 * int(rng.integers(1, 9)), 32 * int(rng.integers(1, 9))
    axes, channels = pyramid_axes(height, width), config.head.channels
    arrays = {
        f"p{level}": rng.standard_normal((batch, channels, axes[f"H{level}"], axes[f"W{level}"]), np.float32)
        for level in range(3, 8)
    }
    mask = np.ones((batch, tokens), np.int64)
    mask[-1, max(1, tokens // 2) :] = 0
    class_map = np.zeros((batch, tokens, classes), np.float32)
    for label in range(1, classes):  # the first class stays without tokens
        chosen = rng.choice(tokens, min(tokens, int(rng.integers(1, 4))), replace=False)
        class_map[:, chosen, label] = 1 / len(chosen)
    sizes = [[height - rng.integers(0, 31), width - rng.integers(0, 31)] for _ in range(batch)]
    text = rng.standard_normal((batch, tokens, config.text.bert.hidden_size), np.float32)
    return {
        **arrays,
        "text_features": text,
        "attention_mask": mask,
        "class_map": class_map,
        "image_sizes": np.array(sizes, np.int64),
    }


@pytest.mark.parametrize(
    ("tokens", "classes"), [(2, 2), (3, 9), (16, 5), (17, 12), (31, 4), (64, 80), (256, 3), (9, 1)]
)
def test_equals_the_bundle(
    original: onnxruntime.InferenceSession,
    runnable: onnxruntime.InferenceSession,
    lowered: tuple[onnx_ir.Model, str, str],
    bundle: Bundle,
    tokens: int,
    classes: int,
) -> None:
    arrays = feed(bundle.config, tokens, tokens, classes)
    expected, given = original.run(None, arrays), runnable.run(None, arrays)
    detection = bundle.config.detection
    if lowered[2] == "host":
        given = finish(*given, detection.nms_threshold, detection.detections_per_image)
    assert expected[3].sum() > 0 or classes == 1  # the only class has no token: no candidate at all
    np.testing.assert_array_equal(given[3], expected[3])
    for theirs, ours in zip(expected, given, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    for image in range(len(expected[0])):
        theirs, ours = (Detections(*(part[image] for part in result[:3])) for result in (expected, given))
        difference = pair(theirs, ours, TOLERANCE, detection.nms_threshold)
        assert difference.paired == expected[3][image] and difference.within(TOLERANCE), difference
        assert (np.diff(ours.scores) <= 0).all()
        assert not ours.boxes[expected[3][image] :].any() and (ours.labels[expected[3][image] :] == -1).all()


def test_outputs(lowered: tuple[onnx_ir.Model, str, str], bundle: Bundle) -> None:
    model, _, nms = lowered
    detection = bundle.config.detection
    many, best = len(detection.anchor_strides) * detection.pre_nms_top_n, detection.detections_per_image
    outputs = [(value.name, value.dtype.numpy().name, [*value.shape]) for value in model.graph.outputs]
    assert [value.name for value in model.graph.inputs] == FUSION_HEAD.input_names
    if nms == "host":
        shapes = (["B", many, 4], ["B", many], ["B", many])
        assert outputs == list(zip(CANDIDATES, ("float32", "float32", "int32"), shapes, strict=True))
    else:
        shapes = (["B", best, 4], ["B", best], ["B", best], ["B"])
        dtypes = [tensor.dtype for tensor in FUSION_HEAD.outputs]
        assert outputs == list(zip(FUSION_HEAD.output_names, dtypes, shapes, strict=True))


def test_no_shape_depends_on_values(lowered: tuple[onnx_ir.Model, str, str], head: onnx_ir.Model) -> None:
    assert "NonMaxSuppression" in set(data_dependent(head.graph))
    assert not set(data_dependent(lowered[0].graph))


def test_plugin_nodes(lowered: tuple[onnx_ir.Model, str, str], head: onnx_ir.Model, bundle: Bundle) -> None:
    model, deform_conv, nms = lowered
    blocks = bundle.config.head.num_convs
    ours = [node for node in model.graph if node.domain == DOMAIN]
    columns = [node for node in ours if node.op_type == DEFORM_IM2COL]
    assert len(columns) == (13 * blocks if deform_conv == "plugin" else 0)
    assert len(ours) - len(columns) == (1 if nms == "plugin" else 0)
    assert model.opset_imports == ({"": 20, DOMAIN: 1} if ours else {"": 20})
    assert not model.functions
    assert sum(node.op_type == "GridSample" for node in model.graph) == 13 * blocks - len(columns)
    for node in ours:
        if node.op_type == NMS:
            detection = bundle.config.detection
            assert node.attributes["iou_threshold"].as_float() == pytest.approx(detection.nms_threshold)
            assert node.attributes["max_detections"].as_int() == detection.detections_per_image
            assert len(node.attributes) == 2 and len(node.outputs) == 4
    # The modules that each stride comes from, as before: DyConv.2 is the one that halves.
    convolutions = [node for node in head.graph if node.op_type == "DeformConv"]
    for before, after in zip(convolutions, columns, strict=False):
        assert after.metadata_props[MODULE_KEY] == before.metadata_props[MODULE_KEY]
        assert after.attributes["stride"].as_int() == before.attributes["strides"].as_ints()[0]
        product = next(user for user in after.outputs[0].consumers())
        assert product.op_type == "MatMul" and product.metadata_props == before.metadata_props


def test_weights_are_shared_and_flattened_once(lowered: tuple[onnx_ir.Model, str, str], head: onnx_ir.Model) -> None:
    weights = {node.inputs[1].name for node in head.graph if node.op_type == "DeformConv"}
    assert len(weights) == 3 * 2  # three convolutions of each of two blocks, on five levels
    initializers = lowered[0].graph.initializers
    assert not weights & set(initializers)
    for name in weights:
        stored, flat = head.graph.initializers[name].const_value.numpy(), initializers[f"{name}.flattened"].const_value
        assert stored.ndim == 4  # the model that was given is not changed
        np.testing.assert_array_equal(flat.numpy(), stored.reshape(len(stored), -1))
    others = set(initializers) & set(head.graph.initializers)
    assert others and all(
        initializers[name].const_value is head.graph.initializers[name].const_value for name in others
    )


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
@pytest.mark.parametrize(("deform_conv", "nms"), [FORMS[0], FORMS[3]])
def test_low_precision_stays(
    head: onnx_ir.Model, bundle: Bundle, tmp_path: Path, precision: str, dtype: int, deform_conv: str, nms: str
) -> None:
    converted = convert(head, FUSION_HEAD, precision)
    lowered = lower(converted, FUSION_HEAD, bundle.config, deform_conv=deform_conv, nms=nms)
    onnx_ir.save(with_reference_functions(lowered), tmp_path / "head.onnx", external_data="head.data")
    flattened = [value for name, value in lowered.graph.initializers.items() if name.endswith(".flattened")]
    assert {value.dtype for value in flattened} == {onnx_ir.DataType(dtype)}
    assert {user.op_type for value in flattened for user in value.consumers()} == {"MatMul"}
    if precision == "fp16":  # ONNX Runtime has no bfloat16 convolution on the CPU
        onnx.checker.check_model(str(tmp_path / "head.onnx"), full_check=True)
        onnx_ir.save(converted, tmp_path / "converted.onnx", external_data="converted.data")
        arrays = feed(bundle.config, 5, 16, 8)
        expected, given = (open_session(tmp_path / f"{name}.onnx").run(None, arrays) for name in ("converted", "head"))
        if nms == "host":
            given = finish(*given, 0.6, bundle.config.detection.detections_per_image)
        # The columns are rounded, which DeformConv does not have: the rule of half precision, not equality.
        both = [[Detections(*one) for one in zip(*found[:3], strict=True)] for found in (expected, given)]
        recall = together([found_again(*pair) for pair in zip(*both, strict=True)])
        assert recall.counted > 50 and recall.within(), recall


def test_the_other_graphs_stay_as_they_are(bundle: Bundle) -> None:
    for name in ("text_encoder", "vision_backbone"):
        model = onnx_ir.load(bundle.graph_path(name))
        kinds = [node.op_type for node in model.graph]
        lowered = lower(model, SPECS[name], bundle.config)
        assert lowered is not model
        assert [node.op_type for node in lowered.graph] == kinds
        assert not set(data_dependent(lowered.graph))


def test_wrong_words_and_graphs(head: onnx_ir.Model, bundle: Bundle) -> None:
    with pytest.raises(GlipExportError, match="no deform_conv 'native': choose one of plugin, gridsample"):
        lower(head, FUSION_HEAD, bundle.config, deform_conv="native")
    with pytest.raises(GlipExportError, match="no nms 'device': choose one of plugin, native, host"):
        lower(head, FUSION_HEAD, bundle.config, nms="device")
    lowered = lower(head, FUSION_HEAD, bundle.config)
    with pytest.raises(GlipExportError, match="lowered already"):
        lower(lowered, FUSION_HEAD, bundle.config)
