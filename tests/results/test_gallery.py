"""The gallery's file: every detection in it as JSON, pictures embedded and scaled down, nothing to fetch."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glip_export.errors import GlipExportError
from glip_export.results.detections import Detections
from glip_export.results.gallery import LONGEST_SIDE, GalleryPicture, write_gallery


def picture(name: str, height: int, width: int, count: int) -> GalleryPicture:
    rng = np.random.default_rng(count)
    boxes = np.sort(rng.uniform(0, min(height, width), (count, 4)), axis=1).astype(np.float32)
    scores = np.sort(rng.uniform(0, 1, count))[::-1].astype(np.float32)
    labels = rng.integers(0, 2, count)
    pixels = np.broadcast_to(np.array([200, 30, 60], np.uint8), (height, width, 3))
    return GalleryPicture(name, pixels, Detections(boxes, scores, labels, ("cat", "dog"), (height, width)))


def test_holds_every_detection_and_picture(tmp_path: Path) -> None:
    pictures = [picture("large.jpg", 600, 2 * LONGEST_SIDE, 7), picture("small.png", 30, 20, 0)]
    write_gallery(tmp_path / "page.html", pictures, "cat. dog", "a bundle on onnxruntime", 0.25)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)[1])
    assert data["prompt"] == "cat. dog" and data["threshold"] == 0.25 and data["classes"] == ["cat", "dog"]
    assert data["results"] == [{"file": entry.name, **entry.detections.to_dict()} for entry in pictures]
    embedded = [
        Image.open(io.BytesIO(base64.b64decode(encoded)))
        for encoded in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    ]
    assert [image.size for image in embedded] == [(LONGEST_SIDE, 300), (20, 30)]
    assert np.abs(np.asarray(embedded[1], np.int64) - [200, 30, 60]).max() <= 3
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_names_no_address_but_data(tmp_path: Path) -> None:
    write_gallery(tmp_path / "page.html", [picture("a.jpg", 20, 20, 3)], "cat. dog", "source")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.findall(r"https?:|@import|url\(", page) == []
    assert {address.split(":")[0] for address in re.findall(r'(?:src|href)="([^"]*)"', page)} == {"data"}
    assert page.count("</script>") == 2  # no script ends early


def test_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(GlipExportError, match="is a folder"):
        write_gallery(tmp_path, [], "cat", "source")
