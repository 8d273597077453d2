"""The exported graphs: their form, and that ONNX Runtime gives what PyTorch gives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from compact_oracle import OracleCase
from random_checkpoint import random_model
from waiting import wait_until

from glip_export import Bundle, Detector, GlipExportError, export_onnx
from glip_export.config import BertConfig, DetectionConfig, GlipConfig, HeadConfig, ImageConfig, SwinConfig, TextConfig
from glip_export.graphs.contracts import graphs_of
from glip_export.model.glip import Glip
from glip_export.parity.metrics import Tolerance, compare
from glip_export.parity.pairing import Detections, pair
from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession
from glip_export.runtime.session import Session
from glip_export.runtime.torch_session import TorchSession

SPECS = graphs_of(GlipConfig())  # of the published models

SMALL = GlipConfig(
    name="small",
    image=ImageConfig(min_size=160, max_size=224),
    text=TextConfig(BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)),
    swin=SwinConfig(embed_dim=12, depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4), window_size=7),
    head=HeadConfig(channels=32, num_convs=1),
    detection=DetectionConfig(pre_nms_top_n=60, detections_per_image=40),
)
CONFIGURATIONS = {
    "fused, MAX": replace(
        SMALL, head=replace(SMALL.head, num_convs=2), detection=replace(SMALL.detection, score_agg="MAX")
    ),
    "not fused, two text layers": replace(
        SMALL,
        head=replace(SMALL.head, early_fusion=False, fused_dot_product=False),
        text=replace(SMALL.text, n_layers=2),
    ),
    "fused, unfused dot product, POWER, window 12": replace(
        SMALL,
        head=replace(SMALL.head, fused_dot_product=False, clamp_fusion_min=False, clamp_dot_product=False),
        swin=replace(SMALL.swin, window_size=12),
        detection=replace(SMALL.detection, score_agg="POWER"),
    ),
    "few candidates, stable softmax": replace(
        SMALL,
        head=replace(SMALL.head, stable_softmax=True, channels=48),
        detection=replace(SMALL.detection, pre_nms_top_n=5, nms_threshold=0.3),
    ),
}
PICTURES_EACH = 25


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def sessions(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Session, Session, GlipConfig]:
    config = CONFIGURATIONS[request.param]
    model = random_model(config)
    bundle = export_onnx(model, tmp_path_factory.mktemp("bundle") / "random")
    return TorchSession(model), OnnxRuntimeSession(bundle), config


def random_inputs(config: GlipConfig, seed: int) -> tuple[np.ndarray, ...]:
    """A batch of noise, a prompt of random tokens, some of it padding, classes of 1 to 3 tokens."""
    rng = np.random.default_rng(seed)
    batch, height, width = int(rng.integers(1, 4)), 32 * int(rng.integers(1, 9)), 32 * int(rng.integers(1, 9))
    tokens, classes = int(rng.integers(2, 40)), int(rng.integers(1, 12))
    images = rng.standard_normal((batch, 3, height, width), np.float32) * rng.choice([0.3, 1, 3], (batch, 1, 1, 1))
    input_ids = rng.integers(1000, 30000, (batch, tokens))
    mask = np.ones((batch, tokens), np.int64)
    mask[-1, max(2, tokens // 2) :] = 0
    class_map = np.zeros((batch, tokens, classes), np.float32)
    for label in range(classes):
        chosen = rng.choice(max(2, tokens // 2), int(rng.integers(1, min(4, max(2, tokens // 2) + 1))), replace=False)
        class_map[:, chosen, label] = 1 if config.detection.score_agg == "MAX" else 1 / len(chosen)
    sizes = np.array([[height - rng.integers(0, 31), width - rng.integers(0, 31)] for _ in range(batch)], np.int64)
    return images.astype(np.float32), input_ids, mask, class_map, sizes


@pytest.mark.parametrize("seed", range(PICTURES_EACH))
def test_onnx_equals_torch(sessions: tuple[Session, Session, GlipConfig], seed: int) -> None:
    reference, candidate, config = sessions
    images, input_ids, mask, class_map, sizes = random_inputs(config, seed)
    outputs = []
    for session in (reference, candidate):
        text, pyramid = session.text_encoder(input_ids, mask), session.vision_backbone(images)
        outputs.append((text, pyramid, session.fusion_head(pyramid, text, mask, class_map, sizes)))
    (text, pyramid, head), (ours_text, ours_pyramid, ours_head) = outputs
    assert compare(text, ours_text).relative < 1e-4
    for theirs, ours in zip(pyramid, ours_pyramid, strict=True):
        assert compare(theirs, ours).relative < 1e-4
    tolerance = Tolerance(box_px=0.02, score=1e-4)
    for image in range(len(images)):
        theirs, ours = (Detections(*(part[image] for part in result[:3])) for result in (head, ours_head))
        difference = pair(theirs, ours, tolerance, config.detection.nms_threshold)
        assert difference.within(tolerance), difference


def test_the_random_models_detect_something(sessions: tuple[Session, Session, GlipConfig]) -> None:
    reference, _, config = sessions
    images, input_ids, mask, class_map, sizes = random_inputs(config, 5)
    pyramid, text = reference.vision_backbone(images), reference.text_encoder(input_ids, mask)
    assert reference.fusion_head(pyramid, text, mask, class_map, sizes)[3].sum() > 0


def test_graphs_are_standard_onnx(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    for spec in SPECS.values():
        path = bundle.graph_path(spec.name)
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path, load_external_data=False)
        assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 20)}
        assert {node.domain for node in model.graph.node} == {""} and not model.functions
        assert [value.name for value in model.graph.input] == spec.input_names
        assert [value.name for value in model.graph.output] == spec.output_names
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert metadata["glip.weights_sha256"] == bundle.weights.sha256
        assert not any(str(Path.home()) in entry.value for node in model.graph.node for entry in node.metadata_props)
        for tensor, value in zip([*spec.inputs, *spec.outputs], [*model.graph.input, *model.graph.output], strict=True):
            axes = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            varying = [axis for axis in tensor.axes if isinstance(axis, str) and axis not in "CLFD"]
            assert [axis for axis in axes if isinstance(axis, str)] == varying
    head = onnx.load(bundle.graph_path("fusion_head"), load_external_data=False).graph
    kinds = [node.op_type for node in head.node]
    assert kinds.count("DeformConv") == 13 * bundle.config.head.num_convs
    assert kinds.count("NonMaxSuppression") == 1


def test_weights_are_beside_the_graph(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    for name, graph in bundle.graphs.items():
        assert graph.data == (f"{name}.onnx.data",)
        assert (tiny_bundle / graph.file).stat().st_size < 2_000_000


def test_onnx_runtime_gives_the_originals_tensors(
    tiny_bundle: Path, tiny_oracle: OracleCase, tiny_io: dict[str, np.ndarray]
) -> None:
    session = OnnxRuntimeSession(Bundle.open(tiny_bundle))
    text = session.text_encoder(tiny_io["input_ids"], tiny_io["attention_mask"])
    assert tiny_oracle.compare("bert_hidden", text) < 1e-4
    for level, feature in enumerate(session.vision_backbone(tiny_io["image_batch"]), start=3):
        assert tiny_oracle.compare(f"fpn_P{level}", feature) < 1e-4


@pytest.mark.slow
def test_static_bundle(tiny_model: Glip, tmp_path: Path, tiny_io: dict[str, np.ndarray]) -> None:
    bundle = export_onnx(tiny_model, tmp_path / "static", image_size=(288, 320))
    assert bundle.image_size == (288, 320)
    dynamic = TorchSession(tiny_model)
    static = OnnxRuntimeSession(bundle)
    pyramid = static.vision_backbone(tiny_io["image_batch"])
    for theirs, ours in zip(dynamic.vision_backbone(tiny_io["image_batch"]), pyramid, strict=True):
        assert compare(theirs, ours).relative < 1e-4
    graph = onnxruntime.InferenceSession(str(bundle.graph_path("vision_backbone")))
    assert graph.get_inputs()[0].shape == ["B", 3, 288, 320]
    # Pictures of any size are shrunk until they fit, and padded to exactly that size.
    pictures = [tiny_io["raw_image0"], np.ascontiguousarray(tiny_io["raw_image1"][:, :100])]
    runs = [Detector(session, bundle.config, bundle.image_size) for session in (dynamic, static)]
    for theirs, ours in zip(*(run.detect(pictures, "person. traffic light") for run in runs), strict=True):
        assert len(theirs) == len(ours) > 0
        np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=0.02)
        np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-4)


@pytest.mark.parametrize(("size", "nearest"), [((800, 1333), "800x1344"), ((0, 64), "64x64"), ((32, 64), "64x64")])
def test_impossible_image_sizes(tiny_model: Glip, tmp_path: Path, size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(GlipExportError, match=nearest):
        export_onnx(tiny_model, tmp_path / "never", image_size=size)
    assert not list(tmp_path.iterdir())


def test_a_failed_export_leaves_nothing(tiny_model: Glip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr("onnx_ir.save", fail)
    with pytest.raises(RuntimeError):
        export_onnx(tiny_model, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_export_leaves_no_bundle(oracle_tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "engines" / "killed"
    command = [sys.executable, "-m", "glip_export.cli", "onnx", "--weights", str(oracle_tiny / "weights.pth")]
    command += ["--config", str(oracle_tiny / "config.yaml"), "--bert-config", str(oracle_tiny / "bert_config.json")]
    process = subprocess.Popen(
        [*command, "--output", str(target)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: list(target.parent.glob(".*/text_encoder.onnx")))
    process.kill()
    assert process.wait() == -9  # it was in the middle of it
    assert not target.exists()
    for leftover in target.parent.iterdir():
        with pytest.raises(GlipExportError):
            Bundle.open(leftover)
