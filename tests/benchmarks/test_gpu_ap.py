"""The GPU run's step of AP, rehearsed on a scene or two of a made parcel, and how a parcel is made."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

import full_size
import models
import parcel
import skeleton
import step_ap
from context import Context, run_part
from models import DEMO

from glip_export.errors import GlipExportError

PICTURE = Path(__file__).parents[2] / "demo" / "picture"


@pytest.fixture
def context(demo_bundle: Path, tmp_path: Path) -> Context:
    """Its parcel: the demo's picture, twice, with what is on it."""
    folder = tmp_path / "parcel" / "scenes"
    (folder / "images").mkdir(parents=True)
    objects = [
        (each["names"][0], each["box"]) for each in json.loads(PICTURE.with_suffix(".json").read_text())["objects"]
    ]
    names = sorted({name for name, _ in objects})
    images, annotations = [], []
    for number in (1, 2):
        shutil.copy(PICTURE.with_suffix(".jpg"), folder / "images" / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg"})
        for name, (x1, y1, x2, y2) in objects:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": names.index(name) + 1}
            annotations.append(box | ids)
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    shutil.copytree(demo_bundle, tmp_path / "out" / DEMO, ignore=shutil.ignore_patterns("cache"))
    return Context(tmp_path / "out", rehearsal=True, parcel=tmp_path / "parcel")


def measured(context: Context, name: str) -> dict[str, Any]:
    return run_part(context, "ap", name, dict(step_ap.parts(context))[name])


def test_right_backends_have_the_cpus_ap(context: Context) -> None:
    for name in ("torch-cuda-fp32", "stand-in-fp16"):
        found = measured(context, name)
        assert found["status"] == "ok", found["reason"]
        assert found["result"]["scores"]["AP50"] > 0.5  # the model knows the picture
        assert abs(found["result"]["difference"]) <= found["result"]["allowed"]
        assert found["result"]["pictures"] == 2


def test_moved_boxes_fail(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Context.session

    class Moved:
        def __init__(self, session: Any) -> None:
            self.session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self.session, name)

        def fusion_head(self, *arrays: Any) -> tuple[np.ndarray, ...]:
            boxes, *others = self.session.fusion_head(*arrays)
            return boxes + np.float32(4), *others

    @contextmanager
    def session(self: Context, *words: Any) -> Iterator[Moved]:
        with right(self, *words) as opened:
            yield Moved(opened)

    monkeypatch.setattr(Context, "session", session)
    found = measured(context, "torch-cuda-fp16")
    assert found["status"] == "failed"
    assert "more than 0.005" in found["reason"]
    assert found["result"]["difference"] < -0.005


def test_the_parcels_reference_is_taken_if_it_is_of_this(context: Context) -> None:
    first = measured(context, "torch-cuda-fp32")["result"]["reference"]
    kept = context.output / step_ap.REFERENCE
    known = json.loads(kept.read_text())
    kept.unlink()
    brought = context.parcel / step_ap.REFERENCE
    brought.write_text(json.dumps({**known, "scores": {**first, "AP": 0.0}}))
    assert measured(context, "torch-cuda-fp32")["status"] == "failed"
    assert not kept.exists()
    brought.write_text(json.dumps({"asked": {**known["asked"], "weights": "of others"}, "scores": {"AP": 0.0}}))
    assert measured(context, "torch-cuda-fp32")["result"]["reference"] == first
    assert kept.exists()


def test_without_a_parcel_it_is_skipped(tmp_path: Path) -> None:
    found = measured(Context(tmp_path / "out", rehearsal=True, parcel=tmp_path / "none"), "torch-cuda-fp16")
    assert found["status"] == "skipped"
    assert "--prepare" in found["reason"]


def test_a_parcel_is_made_once(context: Context, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fetch(package: str, folder: Path) -> None:
        (folder / package).mkdir(parents=True)

    def full(context: Context) -> None:  # takes minutes
        (context.parcel / full_size.SKELETON).mkdir(exist_ok=True)

    monkeypatch.setattr(parcel, "_fetch", fetch)
    monkeypatch.setattr(full_size, "prepare", full)
    skeleton.strip(context.output / DEMO, models.MODELS[DEMO](), context.parcel / DEMO)
    (context.parcel / models.ORACLE).mkdir()
    parcel.prepare(context.parcel)
    written = json.loads((context.parcel / step_ap.REFERENCE).read_text())
    assert written["scores"]["AP50"] > 0.5
    assert (context.parcel / "packages" / "pycocotools").is_dir()
    monkeypatch.setattr(step_ap, "write_reference", None)  # it is there
    parcel.prepare(context.parcel)
    assert f"{context.parcel / 'scenes'}: 0.1 MB" in capsys.readouterr().out


def test_no_pip_or_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel.sys, "executable", shutil.which("false"))
    with pytest.raises(GlipExportError, match="is there a network, and pip"):
        parcel._fetch("pycocotools", tmp_path / "packages")
    assert not list(tmp_path.iterdir())
