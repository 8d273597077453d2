"""An int8 bundle in every verb: it works, or is refused in one line that says what to do."""

import json
import shutil

import numpy as np
import pytest
from command_line import CAT, refused
from numpy.testing import assert_allclose

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.graphs.quantization.calibration import calibrate
from glip_export.graphs.quantization.int8_bundle import write_int8_bundle
from glip_export.prompt import Prompt

PROMPT = "cat. remote control"


@pytest.fixture(scope="module")
def int8_bundle(tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    original = Bundle.open(shutil.copytree(tiny_bundle, folder / "tiny", ignore=shutil.ignore_patterns("cache")))
    found = calibrate(original, [CAT], Prompt.of(PROMPT), threads=1)
    return write_int8_bundle(original, folder / "tiny-int8", found).path


def scores(path, backend):
    return Detector.open(path, backend=backend, threads=1).detect([CAT], PROMPT)[0].scores


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "auto"])
def test_detects_near_fp32(int8_bundle, tiny_bundle, backend):
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    found, expected = scores(int8_bundle, backend), scores(tiny_bundle, "onnxruntime")
    assert len(found) and np.isfinite(found).all()
    assert_allclose(found[:3], expected[:3], atol=0.1)


def test_torch_gives_the_fp32_reference(int8_bundle, tiny_bundle):
    assert np.array_equal(scores(int8_bundle, "torch"), scores(tiny_bundle, "torch"))


def test_verbs_that_take_it(glip_export, int8_bundle, tmp_path):
    pytest.importorskip("pycocotools", reason="the extra eval is not installed")
    (tmp_path / "images").mkdir()
    shutil.copy(CAT, tmp_path / "images")
    truth = {
        "images": [{"id": 1, "file_name": "cat.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 30]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    here = ["--bundle", int8_bundle, "--threads", 1, "--backend", "onnxruntime"]
    for words in (
        ["detect", "images/cat.jpg", "--prompt", PROMPT, *here, "--no-draw"],
        ["label", "images", "--prompt", PROMPT, *here, "--output", "labels"],
        ["eval", "coco", "--images", "images", "--annotations", "truth.json", *here, "--output", "eval"],
        ["triton", int8_bundle, "--output", "repository"],
        ["bake", int8_bundle, "--prompt", PROMPT, "--output", "baked.onnx"],
        ["detect", "images/cat.jpg", "--bundle", "baked.onnx", "--threads", 1, "--no-draw"],
    ):
        code, out, err = glip_export(*words)
        assert code == 0, (words, out, err)
    code, out, _ = glip_export("info", int8_bundle)
    assert code == 0 and "int8 (1 pictures, 2 names, minmax; float: nothing that can be int8" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["verify", "BUNDLE"], ["is int8", "verify the fp32 bundle", "eval coco"]),
        (["verify", "BUNDLE", "--trace"], ["is int8", "verify the fp32 bundle"]),
        (["quantize", "BUNDLE", "--calibration", ".", "--prompt", "cat"], ["is int8 already", "fp32 bundle"]),
        (
            ["detect", CAT, "--bundle", "BUNDLE", "--prompt", "cat", "--backend", "tensorrt"],
            ["glip-export trt", "--int8"],
        ),
    ],
)
def test_verbs_that_refuse_it(glip_export, int8_bundle, words, told):
    refused(glip_export(*(int8_bundle if word == "BUNDLE" else word for word in words)), *told)


def test_other_precisions_are_not_made_of_it(glip_export, int8_bundle):
    for words in (["bake", int8_bundle, "--prompt", "cat", "--fp16", "--output", "x.onnx"], ["trt", int8_bundle]):
        code, out, err = glip_export(*words)
        assert code == 2 and "is int8; " in err and "Traceback" not in out + err
