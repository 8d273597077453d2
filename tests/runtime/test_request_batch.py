"""Many requests at once: each answer is the Detector's own for that picture alone, on every backend."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glip_export import Detections, Detector, GlipExportError
from glip_export.errors import BackendError, ImageError, PromptError
from glip_export.prompt import Prompt
from glip_export.runtime.request_batch import BatchDetector
from glip_export.runtime.requests import DroppedError, PreparedImage, Request

PICTURES = Path(__file__).parents[2] / "glip_export" / "data" / "pictures"
LONG = [f"red car number {number}" for number in range(60)]  # three captions of the small model
PROMPTS = ["cat", "cat. remote control. a very long name of a thing", LONG, "person. dog", ["bicycle"]]


@pytest.fixture(scope="module", params=["torch", "onnxruntime", "openvino"])
def detector(request: pytest.FixtureRequest, tiny_bundle: Path) -> Detector:
    return Detector.open(tiny_bundle, backend=request.param, threads=1)


@pytest.fixture(scope="module")
def onnxruntime(tiny_bundle: Path) -> Detector:
    return Detector.open(tiny_bundle, backend="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """Three of one padded size (though not all of one size), one upright, one wide."""
    cat = Image.open(PICTURES / "cat.jpg").convert("RGB")
    return [_png(cat.resize(size)) for size in ((96, 64), (96, 65), (64, 96), (160, 64))] + [
        _png(cat.resize((96, 64)).rotate(180))
    ]


@pytest.fixture
def calls(onnxruntime: Detector, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(graph, rows) of every run, as a session that takes whole batches."""
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(onnxruntime.session, "one_by_one", False)
    for name in ("text_encoder", "vision_backbone", "fusion_head"):
        run = getattr(onnxruntime.session, name)

        def counted(first, *others, name=name, run=run):
            made.append((name, len(first[0]) if isinstance(first, tuple) else len(first)))
            return run(first, *others)

        monkeypatch.setattr(onnxruntime.session, name, counted)
    return made


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _assert_same(found: Detections | GlipExportError, expected: Detections) -> None:
    """Boxes within 0.02 px, scores within 1e-4, names and number alike; near-ties may change places."""
    assert isinstance(found, Detections), found
    assert found.classes == expected.classes and found.image_size == expected.image_size
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert Counter(found.labels.tolist()) == Counter(expected.labels.tolist())
    for label, score, box in zip(found.labels, found.scores, found.boxes, strict=True):
        near = (expected.labels == label) & (np.abs(expected.scores - score) <= 1e-4)
        assert np.abs(expected.boxes[near] - box).max(axis=1).min() <= 0.02


@pytest.mark.parametrize("in_turn", [False, True])
def test_each_as_alone(
    detector: Detector, pictures: list[bytes], in_turn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector.session, "one_by_one", in_turn, raising=False)
    requests = [
        Request(pictures[number % len(pictures)], PROMPTS[number * 3 % len(PROMPTS)], threshold)
        for number, threshold in zip(range(12), [0.0, 0.3] * 6, strict=True)
    ]
    found = BatchDetector(detector, max_rows=4).detect_each(requests)
    for request, one in zip(requests, found, strict=True):
        picture = np.asarray(Image.open(io.BytesIO(request.image)))
        _assert_same(one, detector.detect([picture], request.prompt)[0].above(request.threshold))


def test_pictures_share_runs_only_at_one_padded_size(
    onnxruntime: Detector, pictures: list[bytes], calls: list[tuple[str, int]]
) -> None:
    batch = BatchDetector(onnxruntime, max_rows=2)
    sizes = Counter(batch.prepare(picture).pixels.shape[0] for picture in pictures)
    found = batch.detect_each([Request(picture, prompt) for picture in pictures for prompt in ("cat", "dog. cup")])
    assert all(isinstance(one, Detections) for one in found) and len(found) == 10
    runs = Counter(calls)
    backbone = sum(rows * count for (name, rows), count in runs.items() if name == "vision_backbone")
    assert backbone == len(pictures), sizes  # once a picture
    assert max(rows for name, rows in runs if name == "vision_backbone") == 2
    assert sum(rows * count for (name, rows), count in runs.items() if name == "fusion_head") == 10
    assert runs["fusion_head", 2] >= 4


def test_a_picture_seen_before_needs_no_backbone(
    onnxruntime: Detector, pictures: list[bytes], calls: list[tuple[str, int]]
) -> None:
    batch = BatchDetector(onnxruntime)
    (first,) = (answer for _, answer in batch.answer([Request(pictures[0], "cat")]))
    made = Counter(name for name, _ in calls)
    (again,) = (answer for _, answer in batch.answer([Request(pictures[0], "cat. dog")]))
    assert (first.cached, again.cached) == (False, True)
    assert Counter(name for name, _ in calls)["vision_backbone"] == made["vision_backbone"] == 1
    assert first.seconds["image"] > 0 and first.seconds["head"] > 0 and "image" not in again.seconds
    assert len(batch.cache) == 1
    none = BatchDetector(onnxruntime, image_cache_bytes=0)
    for _ in range(2):
        none.detect_each([Request(pictures[0], "cat")])
    assert Counter(name for name, _ in calls)["vision_backbone"] == 3


def test_one_bad_request_fails_alone(onnxruntime: Detector, pictures: list[bytes]) -> None:
    requests = [
        Request(pictures[0], "cat"),
        Request(b"no picture", "cat"),
        Request(pictures[1], " . "),
        Request(np.zeros((64, 64, 3), np.float32), "cat"),
        Request(pictures[1], "dog"),
        Request(pictures[1], "dog", wanted=lambda: False),
        Request(_png(Image.new("RGB", (70, 70))), "dog"),
    ]
    found = BatchDetector(onnxruntime, max_pixels=96 * 65).detect_each([*requests, Request(pictures[3], "dog")])
    types = [Detections, ImageError, PromptError, ImageError, Detections, DroppedError, Detections, ImageError]
    assert [type(one) for one in found] == types
    _assert_same(found[4], onnxruntime.detect([np.asarray(Image.open(io.BytesIO(pictures[1])))], "dog")[0])


@pytest.mark.parametrize("in_turn", [False, True])
def test_what_a_session_cannot_run_together_is_run_apart(
    onnxruntime: Detector, pictures: list[bytes], in_turn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime.session, "one_by_one", in_turn)
    backbone, head = onnxruntime.session.vision_backbone, onnxruntime.session.fusion_head

    def small_backbone(images):
        if len(images) > 1 or images.shape[3] > images.shape[2] * 2:
            raise BackendError("more than the profile holds")
        return backbone(images)

    def small_head(features, text, mask, *others):
        if len(text) > 1 or mask.shape[1] > 40:
            raise BackendError("more than the profile holds")
        return head(features, text, mask, *others)

    monkeypatch.setattr(onnxruntime.session, "vision_backbone", small_backbone)
    monkeypatch.setattr(onnxruntime.session, "fusion_head", small_head)
    requests = [Request(picture, prompt) for picture in pictures for prompt in ("cat", LONG)]
    found = BatchDetector(onnxruntime).detect_each(requests)
    wide = pictures[3]
    for request, one in zip(requests, found, strict=True):
        assert isinstance(one, BackendError if request.image is wide or request.prompt is LONG else Detections)


def test_work_no_longer_wanted_is_dropped_before_the_next_stage(
    onnxruntime: Detector, pictures: list[bytes], calls: list[tuple[str, int]]
) -> None:
    asked = iter([True, True, False])
    dropped = Request(pictures[0], "cat", wanted=lambda: next(asked, False))
    found = BatchDetector(onnxruntime).detect_each([dropped])
    assert isinstance(found[0], DroppedError)
    assert [name for name, _ in calls] == ["vision_backbone"]


def test_prepared_and_encoded_pictures(onnxruntime: Detector, pictures: list[bytes]) -> None:
    batch = BatchDetector(onnxruntime)
    prepared = batch.prepare(pictures[2])
    assert isinstance(prepared, PreparedImage) and prepared.original == (96, 64)
    (expected,) = batch.detect_each([Request(pictures[2], Prompt.of("cat"))])
    encoded = batch.cache.get(prepared.key)
    for image in (prepared, encoded, np.asarray(Image.open(io.BytesIO(pictures[2])))):
        (found,) = batch.detect_each([Request(image, "cat")])
        np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_no_requests(onnxruntime: Detector) -> None:
    assert BatchDetector(onnxruntime).detect_each([]) == []
    with pytest.raises(GlipExportError, match="max_rows"):
        BatchDetector(onnxruntime, max_rows=0)
