"""What runs inside Triton, with a stand-in for Triton: requests to answers, and each mistake in its place."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_backend_utils
import numpy as np
import pytest
from conftest import text
from fake_backend_utils import Request
from fake_backend_utils import fake_backend_utils as make_utils
from google.protobuf import json_format, text_format
from same import assert_same
from tritonclient.grpc import model_config_pb2

from glip_export import Detections, Detector
from glip_export.errors import BundleError
from glip_export.serving.triton.python_model import GlipModel


def open_model(monkeypatch: pytest.MonkeyPatch, utils: ModuleType, repository: Path, name: str, **parameters: object):
    """The model as Triton would open it."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    config = text_format.Parse((repository / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    for key, value in parameters.items():
        config.parameters[key].string_value = str(value)
    model = GlipModel()
    model.initialize(
        {
            "model_config": json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)),
            "model_repository": str(repository / name),
            "model_version": "1",
            "model_name": name,
            "model_instance_name": f"{name}_0_0",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    return model


@pytest.fixture
def utils() -> ModuleType:
    return make_utils()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, utils: ModuleType, repository: Path) -> GlipModel:
    return open_model(monkeypatch, utils, repository, "glip", max_bytes=400_000, max_pixels=30_000, max_names=100)


def read(response: Any, classes: tuple[str, ...], row: int = 0) -> Detections:
    """One row of a response, as the client reads it."""
    assert not response.has_error(), response.error()
    outputs = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
    n = int(outputs["count"][row, 0])
    found = Detections(
        outputs["boxes"][row, :n],
        outputs["scores"][row, :n],
        outputs["labels"][row, :n],
        classes,
        tuple(outputs["image_size"][row].tolist()),
    )
    assert [name.decode() for name in outputs["names"][row, :n]] == found.names
    assert not outputs["boxes"][row, n:].any() and (outputs["labels"][row, n:] == -1).all()
    return found


def test_mistakes_are_their_requests_own(
    model: GlipModel, utils: ModuleType, pictures: list[bytes], detector: Detector
) -> None:
    good = [Request(image=text(picture), prompt=text("cat. dog")) for picture in pictures[:3]]
    bad = [
        (Request(image=text(b"no picture"), prompt=text("cat")), "bad_image: the given bytes is not a picture"),
        (Request(image=text(b"x" * 400_001), prompt=text("cat")), "bad_image: the picture has 400001 bytes"),
        (Request(image=text(pictures[8]), prompt=text("cat")), "bad_image: the given bytes is too large: 333 x 500"),
        (Request(image=text(pictures[0]), prompt=text(" . ")), "bad_prompt: the prompt is empty"),
        (Request(image=text(pictures[0]), prompt=text(b"\xff")), "bad_prompt: the prompt is not UTF-8"),
        (Request(image=text(pictures[0]), prompt=text(". ".join("abc"[i % 3] for i in range(101)))), "101 names"),
        (Request(prompt=text("cat")), "bad_image: a request has either image"),
        (Request(image=text(pictures[0], b""), prompt=text("cat", "dog")), "bad_image: "),
        (Request(image=text(pictures[0])), "bad_prompt: the request has no prompt"),
    ]
    requests = [request for pair in zip(good, [one for one, _ in bad[:3]], strict=True) for request in pair]
    requests += [one for one, _ in bad[3:]]
    responses = model.execute(requests)
    for picture, response in zip(pictures, responses[0:6:2], strict=False):
        assert_same(read(response, ("cat", "dog")), detector.detect([picture], "cat. dog")[0])
    failed = [*responses[1:6:2], *responses[6:]]
    for response, (_, words) in zip(failed, bad, strict=True):
        assert response.has_error() and words in response.error().message()
        assert response.error().code() == "INVALID_ARG"
    assert fake_backend_utils.Logger.errors == []


def test_rows_thresholds_and_padding(model: GlipModel, detector: Detector) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 60, 70, 3), np.uint8)
    expected = [detector.detect([pixels[0]], "cat")[0], detector.detect([pixels[1]], ["a", "b"])[0]]
    middle = float(np.median(expected[1].scores))
    threshold = np.array([[0], [middle]], np.float32)
    (response,) = model.execute([Request(pixels=pixels, prompt=text("cat", '["a", "b"]'), threshold=threshold)])
    assert_same(read(response, ("cat",), 0), expected[0])
    assert_same(read(response, ("a", "b"), 1), expected[1].above(np.float32(middle)))
    assert len(read(response, ("a", "b"), 1)) < len(expected[1])


def test_a_failing_batch_is_tried_one_by_one(
    model: GlipModel, monkeypatch: pytest.MonkeyPatch, pictures: list[bytes], detector: Detector
) -> None:
    from glip_export.runtime import request_batch

    load = request_batch.load_image

    def fail_on_one(image: object, max_pixels: int) -> np.ndarray:
        if image == pictures[1]:
            raise MemoryError("no memory")
        return load(image, max_pixels)

    monkeypatch.setattr(request_batch, "load_image", fail_on_one)
    responses = model.execute([Request(image=text(picture), prompt=text("cat")) for picture in pictures[:3]])
    assert [response.has_error() for response in responses] == [False, True, False]
    assert responses[1].error().code() == "INTERNAL"
    assert responses[1].error().message() == "internal: the server failed on this request; see its log"
    assert_same(read(responses[2], ("cat",)), detector.detect([pictures[2]], "cat")[0])
    assert any("MemoryError" in entry for entry in fake_backend_utils.Logger.errors)


def test_features_are_kept(model: GlipModel, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    session = model._batch.detector.session
    run, runs = session.vision_backbone, []
    monkeypatch.setattr(session, "vision_backbone", lambda images: runs.append(len(images)) or run(images))
    for prompt in ("cat", "dog", "cat"):
        model.execute([Request(image=text(pictures[0]), prompt=text(prompt))])
    assert runs == [1]
    model.finalize()


def test_no_detection_is_no_empty_tensor(model: GlipModel, pictures: list[bytes]) -> None:
    threshold = np.array([[1]], np.float32)
    (response,) = model.execute([Request(image=text(pictures[0]), prompt=text("cat"), threshold=threshold)])
    shapes = {tensor.name(): tensor.as_numpy().shape for tensor in response.output_tensors()}
    assert shapes["names"] == (1, 1) and shapes["boxes"] == (1, 1, 4) and len(read(response, ("cat",))) == 0


def test_a_damaged_bundle_keeps_the_model_down(
    monkeypatch: pytest.MonkeyPatch, utils: ModuleType, repository: Path, tmp_path: Path
) -> None:
    for name, file in [
        ("glip", "glip/1/bundle/vision_backbone.onnx.data"),
        ("glip_gpu", "glip_gpu_fusion_head/1/model.onnx"),
    ]:
        shutil.copytree(repository, tmp_path / name)
        damaged = tmp_path / name / file
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
        with pytest.raises(BundleError, match="SHA-256"):
            open_model(monkeypatch, utils, tmp_path / name, name)


def test_graphs_as_models_of_their_own(
    monkeypatch: pytest.MonkeyPatch, repository: Path, pictures: list[bytes], prompts: list, detector: Detector
) -> None:
    """glip_gpu: the same answers, over requests to three other models, pictures of one padded size in one run."""
    graphs = {path.parent.parent.name: str(path) for path in repository.glob("glip_gpu_*/1/model.onnx")}
    utils = make_utils(graphs)
    model = open_model(monkeypatch, utils, repository, "glip_gpu")
    chosen = [*zip(pictures[:4], prompts[8:12], strict=True), (pictures[0], prompts[12]), (pictures[10], "cat")]
    requests = [
        Request(image=text(picture), prompt=text(prompt if isinstance(prompt, str) else json.dumps(prompt)))
        for picture, prompt in chosen
    ]
    for (picture, prompt), response in zip(chosen, model.execute(requests), strict=True):
        (expected,) = detector.detect([picture], prompt)
        assert_same(read(response, expected.classes), expected)
    rows = [count for name, count in utils.calls if name == "glip_gpu_vision_backbone"]
    assert sum(rows) == 5 and len(rows) < 5  # the picture that came twice once, those of one size together
    assert max(count for name, count in utils.calls if name == "glip_gpu_fusion_head") > 1


def test_a_graph_that_is_not_loaded(monkeypatch: pytest.MonkeyPatch, utils: ModuleType, repository: Path) -> None:
    model = open_model(monkeypatch, utils, repository, "glip_gpu")
    (response,) = model.execute([Request(pixels=np.zeros((1, 40, 40, 3), np.uint8), prompt=text("cat"))])
    assert response.error().code() == "INTERNAL"
    assert "glip_gpu_vision_backbone failed (images (1, 3, " in response.error().message()
