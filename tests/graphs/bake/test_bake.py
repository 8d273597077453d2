"""A baked model gives what the Detector gives with the same names, in ONNX Runtime and OpenVINO, whatever the head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from compact_oracle import OracleCase

from glip_export import Detector
from glip_export.bundle import BakedFile, Bundle
from glip_export.errors import BackendError, BundleError, GlipExportError, PromptError
from glip_export.graphs.bake import bake
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections

NAMES = ["cat", "remote control", "a person on a bench"]
# Of fusion: the image alone, level by level, in the backbone, none.
STRUCTURES = ("mha_s", "separate", "swint_vl", "tiny_unfused")


def pictures(case: OracleCase) -> list[np.ndarray]:
    """Two of different sizes, so that one is padded."""
    first, second = case.pictures()
    return [first, second[: len(second) * 3 // 4]]


def assert_equal(expected: list[Detections], found: list[Detections]) -> None:
    """Labels alike, boxes to 0.02 pixels, scores to 1e-4."""
    for one, other in zip(expected, found, strict=True):
        assert len(one) > 20
        np.testing.assert_array_equal(other.labels, one.labels)
        np.testing.assert_allclose(other.boxes, one.boxes, atol=0.02)
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-4)
        assert other.names == one.names and other.image_size == one.image_size


@pytest.fixture(scope="module")
def baked(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small GLIP with NAMES."""
    return bake(tiny_bundle, Prompt.of(NAMES), tmp_path_factory.mktemp("baked") / "tiny.onnx").file.path


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_as_the_detector(baked: Path, tiny_bundle: Path, tiny_oracle: OracleCase, backend: str) -> None:
    given = pictures(tiny_oracle)
    expected = Detector.open(tiny_bundle, "onnxruntime").detect(given, NAMES)
    assert_equal(expected, Detector.open(baked, backend).detect(given))


def test_a_batch_in_one_run(baked: Path, tiny_bundle: Path, tiny_oracle: OracleCase) -> None:
    """Backends run picture by picture on a CPU; the graph itself takes any number."""
    import onnxruntime

    from glip_export.image import preprocess

    config = Bundle.open(tiny_bundle).config
    batch = preprocess(pictures(tiny_oracle), config.image)
    session = onnxruntime.InferenceSession(str(baked))
    together = session.run(None, {"images": batch.images})
    apart = [session.run(None, {"images": image[None]}) for image in batch.images]
    for whole, parts in zip(together, zip(*apart, strict=True), strict=True):
        np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-3)
    assert [output.shape for output in together] == [(2, 100, 4), (2, 100), (2, 100), (2,)]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure(structure: str, oracle_bundle: Callable[[OracleCase], Path], tmp_path: Path) -> None:
    case = OracleCase(structure)
    bundle = oracle_bundle(case)
    made = bake(bundle, Prompt.of(NAMES), tmp_path / "baked.onnx")
    given = pictures(case)
    expected = Detector.open(bundle, "onnxruntime").detect(given, NAMES)
    assert_equal(expected, Detector.open(made.file.path, "onnxruntime").detect(given))


def test_a_static_size(tiny_bundle: Path, tiny_oracle: OracleCase, tmp_path: Path) -> None:
    made = bake(tiny_bundle, Prompt.of(NAMES), tmp_path / "static.onnx", image_size=(160, 224))
    assert made.inputs == {"images": "float32 (B, 3, 160, 224)"} and made.file.image_size == (160, 224)
    given = pictures(tiny_oracle)
    from glip_export.runtime.backends import open_session

    opened = Bundle.open(tiny_bundle)
    of_that_size = Detector(open_session(opened, "onnxruntime"), opened.config, (160, 224))
    assert_equal(of_that_size.detect(given, NAMES), Detector.open(made.file.path).detect(given))


def test_fp16(tiny_bundle: Path, tiny_oracle: OracleCase, tmp_path: Path, baked: Path) -> None:
    made = bake(tiny_bundle, Prompt.of(NAMES), tmp_path / "half.onnx", precision="fp16")
    assert made.bytes < 0.6 * baked.stat().st_size and made.file.precision == "fp16"
    given = pictures(tiny_oracle)
    best = [found.scores[:10] for found in Detector.open(made.file.path).detect(given)]
    np.testing.assert_allclose(best, [found.scores[:10] for found in Detector.open(baked).detect(given)], atol=0.02)
    assert Detector.open(made.file.path, "auto").detect(given)  # passes OpenVINO over
    with pytest.raises(BackendError, match="is fp16, for GPUs"):
        Detector.open(made.file.path, "openvino")


def test_text_is_gone_and_folded(baked: Path, tiny_bundle: Path) -> None:
    """No text encoder, and the first block's projections of the text are constants."""
    model = onnx.load(baked)
    assert [value.name for value in model.graph.input] == ["images"]
    modules = {entry.value for node in model.graph.node for entry in node.metadata_props if entry.key == "glip.module"}
    assert "dyhead_tower.0.b_attn.attn" in modules and "dyhead_tower.3.b_attn.attn.l_proj" in modules
    assert "dyhead_tower.0.b_attn.attn.l_proj" not in modules  # the first block reads the text as it came
    weights = sum(graph.bytes for name, graph in Bundle.open(tiny_bundle).graphs.items() if name != "text_encoder")
    assert baked.stat().st_size < 1.1 * weights


def test_names_stand_in_the_metadata(baked: Path) -> None:
    file = BakedFile.open(baked)
    assert file.names == tuple(NAMES) and file.precision == "fp32" and file.inputs == ("images",)
    assert file.metadata["glip.caption"] == ". ".join(NAMES)


def test_the_same_bytes_again(baked: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    again = bake(tiny_bundle, Prompt.of(NAMES), tmp_path / "tiny.onnx")
    assert again.file.path.read_bytes() == baked.read_bytes()


@pytest.mark.parametrize("place", [40, -20_000, -200, -70, -30, -1])
def test_a_changed_byte(baked: Path, tmp_path: Path, place: int) -> None:
    data = bytearray(baked.read_bytes())
    data[place] ^= 4
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(data)
    with pytest.raises(BundleError, match=r"changed.onnx .*(damaged|changed)"):
        Detector.open(changed)


def test_what_is_none(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    (tmp_path / "empty.onnx").touch()
    for path, words in (
        (tmp_path / "text.onnx", "damaged"),
        (tmp_path / "empty.onnx", "damaged"),
        (tmp_path / "none.onnx", "there is no file"),
        (tiny_bundle / "fusion_head.onnx", "no baked model"),
    ):
        with pytest.raises(BundleError, match=words):
            Detector.open(path)


def test_what_a_baked_model_does_not_do(baked: Path) -> None:
    detector = Detector.open(baked)
    with pytest.raises(PromptError, match="without a prompt"):
        detector.detect([np.zeros((64, 64, 3), np.uint8)], "cat")
    with pytest.raises(GlipExportError, match="one caption"):
        detector.detect([np.zeros((64, 64, 3), np.uint8)], chunk=1)
    with pytest.raises(BackendError, match="onnxruntime"):
        Detector.open(baked, "torch")
    with pytest.raises(BundleError, match="takes the bundle"):
        Bundle.open(baked)


def test_a_bundle_needs_a_prompt(tiny_bundle: Path) -> None:
    with pytest.raises(PromptError, match="needs a prompt"):
        Detector.open(tiny_bundle).detect([np.zeros((64, 64, 3), np.uint8)])


def test_what_cannot_be_baked(tiny_bundle: Path, several_scales_bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    long = Prompt.of([f"a long name of number {number}" for number in range(80)])
    for arguments, error, words in (
        ((several_scales_bundle, Prompt.of(NAMES), target), BundleError, "USE_MULTISCALE"),
        ((tiny_bundle, long, target), PromptError, "captions"),
        ((tiny_bundle, Prompt.of(NAMES), tmp_path / "out.bin"), GlipExportError, "ends in .onnx"),
    ):
        with pytest.raises(error, match=words):
            bake(*arguments)
    for options, error, words in (
        ({"precision": "int8"}, BundleError, "quantize"),
        ({"precision": "int4"}, GlipExportError, "int4"),
        ({"image_size": (100, 100)}, GlipExportError, "multiples of 32"),
    ):
        with pytest.raises(error, match=words):
            bake(tiny_bundle, Prompt.of(NAMES), target, **options)
    assert list(tmp_path.iterdir()) == []
