"""glip-export quantize: what it writes of the small GLIP, and its mistakes in a line."""

import json
import shutil

import numpy as np
import onnx_ir
import pytest
from command_line import CAT, refused
from numpy.testing import assert_allclose

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.graphs.quantized import is_quantized

PROMPT = "cat. remote control"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(CAT, folder)
    return folder


def test_writes_an_int8_bundle_that_detects(glip_export, tiny_copy, photos, tmp_path):
    report = tmp_path / "report.json"
    code, out, _ = glip_export(
        "quantize", tiny_copy, "--calibration", photos, "--prompt", PROMPT, "--threads", 1, "--json", report
    )
    assert code == 0, out
    opened, original = Bundle.open(tmp_path / "tiny-int8"), Bundle.open(tiny_copy)
    assert opened.precision == "int8" and opened.weights == original.weights
    assert all(is_quantized(onnx_ir.load(opened.graph_path(name))) for name in opened.graphs)
    done = opened.extra["quantization"]
    assert (done["pictures"], done["names"], done["method"], done["float"]) == (1, 2, "minmax", [])
    assert json.loads(report.read_text())["calibration_sha256"] == done["calibration_sha256"]
    data = [sum(file.bytes for name, file in one.files.items() if name.endswith(".data")) for one in (opened, original)]
    assert data[0] < 0.32 * data[1]  # the small model has more biases and norms in proportion
    found, expected = (
        Detector.open(one.path, backend="onnxruntime", threads=1).detect([CAT], PROMPT)[0] for one in (opened, original)
    )
    assert len(found.scores) and np.isfinite(found.boxes).all()
    assert_allclose(found.scores[:3], expected.scores[:3], atol=0.1)


def test_goes_on_from_its_cache_and_gives_the_same_bytes(glip_export, tiny_copy, photos, tmp_path):
    words = ["quantize", tiny_copy, "--calibration", photos, "--prompt", PROMPT, "--threads", 1, "--output"]
    for name in ("first", "second"):
        assert glip_export(*words, tmp_path / name)[0] == 0
    first, second = (Bundle.open(tmp_path / name) for name in ("first", "second"))
    assert first.files == second.files
    assert len(list((tiny_copy / "cache").glob("quantize-*"))) == 1


def test_keeps_modules_float_that_are_named(glip_export, tiny_copy, photos, tmp_path):
    code, out, _ = glip_export(
        "quantize", tiny_copy, "--calibration", photos, "--prompt", PROMPT, "--threads", 1, "--float", "fpn"
    )
    assert code == 0, out
    opened = Bundle.open(tmp_path / "tiny-int8")
    assert opened.extra["quantization"]["float"]
    model = onnx_ir.load(opened.graph_path("vision_backbone"))
    modules = {n.metadata_props.get("glip.module", "") for n in model.graph if n.op_type == "DequantizeLinear"}
    assert modules and not any(module.startswith("fpn") for module in modules)


def test_measures_each_module_and_holds_an_ap(glip_export, tiny_copy, photos, tmp_path, monkeypatch):
    """As the small model finds nothing, its APs are 0 whatever is int8: what the search does is tested on its own."""
    pytest.importorskip("pycocotools", reason="the extra eval is not installed")
    truth = {
        "images": [{"id": 1, "file_name": "cat.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 30]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    few = ["fpn.fpn_layer2", "fpn.top_blocks.p6"]
    monkeypatch.setattr("glip_export.graphs.quantization.sensitivity.int8_modules", lambda _: {"vision_backbone": few})
    words = ["quantize", tiny_copy, "--calibration", photos, "--prompt", PROMPT, "--threads", 1]
    words += ["--sensitivity", "modules.json", "--annotations", "truth.json", "--max-ap-drop", "0.01"]
    code, out, _ = glip_export(*words)
    assert code == 0, out
    rows = json.loads((tmp_path / "modules.json").read_text())
    assert sorted(row["module"] for row in rows) == few
    assert all(10 < row["sqnr"] < 80 and 0 < row["largest"] < 1 and 0 <= row["ap"] <= 1 for row in rows)
    assert rows == sorted(rows, key=lambda row: (row["ap"], row["sqnr"]))
    measured = Bundle.open(tmp_path / "tiny-int8").extra["quantization"]["ap"]
    assert measured["fp32"] - measured["int8"] <= 0.01


@pytest.mark.parametrize(
    "change, words",
    [
        ({"--calibration": "nowhere"}, ["nowhere", "is not there"]),
        ({"--calibration": "empty"}, ["empty", "holds no picture"]),
        ({"--calibration": None}, ["--calibration"]),
        ({"--prompt": None}, ["--prompt"]),
        ({"--prompt": "..."}, ["prompt"]),
        ({"--float": "nothing.such"}, ["--float nothing.such", "no module"]),
        ({"--float": "*"}, ["--float *", "leaves nothing in int8"]),
        ({"--method": "mean"}, ["--method", "minmax", "'mean'"]),
        ({"--max-ap-drop": "0.01"}, ["--max-ap-drop", "--annotations"]),
        ({"--annotations": "truth.json"}, ["--annotations", "--max-ap-drop or --sensitivity"]),
        ({"--annotations": "broken.json", "--max-ap-drop": "0.01"}, ["broken.json"]),
        ({"--calibration": "photos/cat.jpg"}, ["photos/cat.jpg", "is a file"]),
        ({"--calibration": "unreadable"}, ["unreadable/a.jpg"]),
    ],
)
def test_mistakes_are_one_line(glip_export, tiny_bundle, photos, tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable" / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    options = {"--calibration": photos, "--prompt": PROMPT, "--output": tmp_path / "out", **change}
    given = [word for option, value in options.items() if value is not None for word in (option, value)]
    refused(glip_export("quantize", tiny_bundle, *given), *words)
    assert not (tmp_path / "out").exists()


def test_a_broken_picture_among_others_is_named(glip_export, tiny_copy, photos, tmp_path):
    (photos / "z.jpg").write_bytes(b"no picture")
    refused(glip_export("quantize", tiny_copy, "--calibration", photos, "--prompt", PROMPT, "--threads", 1), "z.jpg")
    assert not (tmp_path / "tiny-int8").exists()


@pytest.mark.parametrize(("limit", "named"), [(500, ["cache/quantize-", "File too large"]), (100_000, ["tiny-int8"])])
def test_a_full_disk_is_one_line(glip_export, tiny_copy, photos, tmp_path, limit, named):
    """The kernel's limit on a file's size stands for it: at the notes of the calibration, and at the graphs."""
    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        result = glip_export("quantize", tiny_copy, "--calibration", photos, "--prompt", PROMPT, "--threads", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(result, "cannot write", *named)
    assert not list(tmp_path.glob("*int8*"))


def test_refuses_an_int8_bundle_and_an_output_that_is_an_input(glip_export, tiny_copy, photos, tmp_path):
    words = ["--calibration", photos, "--prompt", PROMPT]
    refused(glip_export("quantize", tiny_copy, *words, "--output", tiny_copy), "--output", "would be replaced")
    manifest = tiny_copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"precision": "fp32"', '"precision": "int8"'))
    refused(glip_export("quantize", tiny_copy, *words), "is int8 already", "fp32 bundle")
