"""The commands on a bundle that sees pictures at several scales: which take it, and which refuse it in a line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import CAT, refused
from PIL import Image

from glip_export import Bundle, Detector, GlipExportError, load_model
from glip_export.bench.job import Job
from glip_export.bench.workload import Workload
from glip_export.cli.info import _detections, _scales
from glip_export.config import GlipConfig, MultiscaleConfig
from glip_export.graphs.export import export_onnx

TWO = ["cat", "remote control"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures of different shapes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(CAT) as cat:
        cat.crop((0, 0, 200, 120)).save(folder / "wide.png")
        cat.crop((0, 0, 120, 200)).save(folder / "tall.png")
    return folder


@pytest.mark.parametrize("drawn", [True, False])
def test_detect_is_the_detectors(
    glip_export, tmp_path: Path, several_scales_bundle: Path, photos: Path, drawn: bool
) -> None:
    files = [photos / "wide.png", photos / "tall.png"]
    words = ("--prompt", ". ".join(TWO), "--bundle", several_scales_bundle, "--threads", 1, "--json", "out.json")
    words += ("--backend", "onnxruntime")  # whose last digits are the same in every session
    code, _, _ = glip_export("detect", *files, *words, *(("--output", "out") if drawn else ("--no-draw",)))
    assert code == 0 and (tmp_path / "out" / "wide.png").exists() == drawn
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    expected = Detector.open(several_scales_bundle, threads=1).detect(files, TWO)  # one batch, as they are few
    for result, detections in zip(results, expected, strict=True):
        assert result["detections"] == detections.to_dict()["detections"] and len(detections) > 50


def test_info_and_verify(glip_export, tmp_path: Path, several_scales_bundle: Path) -> None:
    code, out, _ = glip_export("info", several_scales_bundle, "--json", "info.json")
    assert code == 0 and "160, 224, 288, long side up to 384, each mirrored too" in out
    assert "merged by NMS at 0.6" in out and "pictures are resized" not in out
    assert json.loads((tmp_path / "info.json").read_text())["config"]["multiscale"]["scales"] == [160, 224, 288]
    code, out, _ = glip_export("verify", several_scales_bundle, "--quick", "--json", "parity.json")
    assert code == 0 and "PASSED" in out
    assert json.loads((tmp_path / "parity.json").read_text())["passed"] is True


def test_what_info_says() -> None:
    plain = GlipConfig()
    assert (_scales(plain), _detections(plain)) == ("", "100 a picture")
    several = replace(plain, detection=replace(plain.detection, several_scales=True))
    own = MultiscaleConfig(scales=(800,), flip=False, special_nms="softvote", most=0, select_classes=(1, 3))
    config = replace(several, multiscale=own)
    assert _scales(config) == "800, long side up to 2500"
    assert _detections(config) == "any number, merged by NMS at 0.6, of names 1, 3"
    config = replace(several, multiscale=replace(own, special_nms="soft-vote", threshold=-1.0, select_classes=()))
    assert _detections(config) == "any number, not merged, of the first 80 names"


def test_eval_coco_of_two_backends(glip_export, tmp_path: Path, several_scales_bundle: Path, photos: Path) -> None:
    pytest.importorskip("pycocotools", reason="the extra eval is not installed")
    sizes = {"wide.png": (200, 120), "tall.png": (120, 200)}
    images = [
        {"id": n, "file_name": name, "width": w, "height": h} for n, (name, (w, h)) in enumerate(sizes.items(), 1)
    ]
    boxes = [
        {"id": n, "image_id": n, "category_id": 7, "bbox": [5, 5, 60, 60], "area": 3600, "iscrowd": 0} for n in (1, 2)
    ]
    categories = [{"id": 7, "name": TWO[0]}, {"id": 9, "name": TWO[1]}]
    (tmp_path / "set.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    words = ("--images", photos, "--annotations", "set.json", "--bundle", several_scales_bundle, "--threads", 1)
    several = ("--backend", "onnxruntime", "--backend", "openvino", "--max-ap-difference", "0.001", "--output", "out")
    code, out, _ = glip_export("eval", "coco", *words, *several)
    assert code == 0 and "PASSED" in out
    detector = Detector.open(several_scales_bundle, threads=1)
    expected = detector.detect([photos / name for name in sizes], TWO)
    found = json.loads((tmp_path / "out" / "onnxruntime" / "detections.json").read_text())
    assert len(found) == sum(map(len, expected)) > 200  # more than a hundred a picture
    np.testing.assert_allclose(
        [item["score"] for item in found], np.concatenate([detections.scores for detections in expected])
    )


def test_serve_triton_and_the_benchmark_refuse_it(glip_export, several_scales_bundle: Path) -> None:
    refused(glip_export("triton", several_scales_bundle, "--output", "repository"), "TEST.USE_MULTISCALE", "detect")
    refused(glip_export("serve", several_scales_bundle, "--port", 0), "TEST.USE_MULTISCALE", "detect")
    job = Job(str(several_scales_bundle), tuple(TWO), (256, 320))
    with pytest.raises(GlipExportError, match="glip-bench runs pictures at one scale"):
        Workload.open(job, "onnxruntime")


def test_a_static_bundle_cannot_see_several_scales(
    several_scales_bundle: Path, oracle_tiny: Path, tmp_path: Path
) -> None:
    config = Bundle.open(several_scales_bundle).config
    model = load_model(
        oracle_tiny / "weights.pth",
        oracle_tiny / "config.yaml",
        ["TEST.USE_MULTISCALE", "True"],
        oracle_tiny / "bert_config.json",
    )
    assert model.config.detection == config.detection
    with pytest.raises(GlipExportError, match=r"TEST\.USE_MULTISCALE takes several"):
        export_onnx(model, tmp_path / "static", (256, 320))
    assert not (tmp_path / "static").exists()
