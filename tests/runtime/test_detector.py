"""The Detector: the original's detections from its raw pictures, batches, chunks, caches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compact_oracle import OracleCase
from PIL import Image

from glip_export import Detector, GlipExportError
from glip_export.errors import BackendError, GlipExportWarning, ImageError, PromptError
from glip_export.prompt import Prompt


@pytest.fixture(scope="module", params=["torch", "onnxruntime"])
def detector(request: pytest.FixtureRequest, tiny_bundle: Path) -> Detector:
    return Detector.open(tiny_bundle, backend=request.param, threads=1)


@pytest.fixture(scope="module")
def caption(oracle_tiny: Path) -> str:
    return json.loads((oracle_tiny / "prompt.json").read_text())["caption"]


@pytest.fixture(scope="module")
def pictures(tiny_io: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [tiny_io["raw_image0"], tiny_io["raw_image1"]]


def test_the_originals_detections(
    detector: Detector,
    pictures: list[np.ndarray],
    caption: str,
    tiny_io: dict[str, np.ndarray],
    tiny_oracle: OracleCase,
) -> None:
    for image, found in enumerate(detector.detect(pictures, caption)):
        order = np.argsort(-tiny_io[f"result{image}_scores"], kind="stable")
        assert len(found) == 100
        np.testing.assert_array_equal(found.labels + 1, tiny_io[f"result{image}_labels"][order])
        np.testing.assert_allclose(found.boxes, tiny_io[f"result{image}_orig_boxes"][order], atol=0.02)
        np.testing.assert_allclose(found.scores, tiny_io[f"result{image}_scores"][order], atol=1e-4)
        assert found.names[0] == tiny_oracle.prompt["names"][found.labels[0]]


def test_batches_are_padded_together_unless_told_otherwise(
    detector: Detector, pictures: list[np.ndarray], caption: str
) -> None:
    together, split = detector.detect(pictures, caption), detector.detect(pictures, caption, batch_size=1)
    alone = [detector.detect([picture], caption)[0] for picture in pictures]
    for one, other in zip(split, alone, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
    assert np.abs(together[0].scores - alone[0].scores).max() > 1e-3  # padding changes results, as in the original


def test_chunks_are_concatenated_without_nms_or_limit(detector: Detector, pictures: list[np.ndarray]) -> None:
    names = ["person", "bicycle", "traffic light", "hair drier"]
    (found,) = detector.detect(pictures[:1], names, chunk=2)
    (first,), (second,) = (detector.detect(pictures[:1], part) for part in (names[:2], names[2:]))
    assert len(found) == len(first) + len(second) == 200
    assert (np.diff(found.scores) <= 0).all()
    assert found.classes == tuple(names)
    np.testing.assert_array_equal(np.sort(found.scores[found.labels >= 2]), np.sort(second.scores))


def test_long_prompts_run_the_backbone_once(detector: Detector, pictures: list[np.ndarray], monkeypatch) -> None:
    calls = {"vision_backbone": 0, "text_encoder": 0, "fusion_head": 0}
    for name in calls:
        run = getattr(detector.session, name)

        def counted(*arguments, name=name, run=run):
            calls[name] += 1
            return run(*arguments)

        monkeypatch.setattr(detector.session, name, counted)
    names = [f"red car number {number}" for number in range(60)]
    (found,) = detector.detect(pictures[:1], names)
    assert calls["vision_backbone"] == 1
    assert calls["text_encoder"] == calls["fusion_head"] > 1
    assert set(found.labels) <= set(range(60)) and found.labels.max() > 20
    texts = calls["text_encoder"]
    detector.detect(pictures[:1], names)
    assert calls["text_encoder"] == texts  # the same captions again cost no text encoder


def test_encoded_images_take_many_prompts(detector: Detector, pictures: list[np.ndarray], caption: str) -> None:
    encoded = detector.encode_images(pictures)
    for prompt in (caption, "cat", ["dog", "remote control"]):
        for one, other in zip(detector.detect_encoded(encoded, prompt), detector.detect(pictures, prompt), strict=True):
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.scores, other.scores)


def test_a_prompt_for_each_picture(detector: Detector, pictures: list[np.ndarray]) -> None:
    p, q = Prompt.of("person. bicycle"), Prompt.from_spans("a hair drier on a chair", [(0, 12)])
    alone = {prompt: detector.detect(pictures, prompt) for prompt in (p, q)}
    for prompts in ([p, q], (q, p), [p, Prompt.of(["person", "bicycle"])]):
        found = detector.detect(pictures, prompts)
        assert [one.classes for one in found] == [prompt.names for prompt in prompts]
        for index, (one, prompt) in enumerate(zip(found, prompts, strict=True)):
            expected = alone[prompt][index]  # padded together with the other picture, as here
            np.testing.assert_allclose(one.scores, expected.scores, atol=1e-5)
            # torch sums in another order for another number of pictures: near-equal scores change places.
            np.testing.assert_array_equal(np.sort(one.labels), np.sort(expected.labels))
            np.testing.assert_allclose(np.sort(one.boxes, axis=0), np.sort(expected.boxes, axis=0), atol=1e-2)
            if getattr(detector.session, "one_by_one", False):
                np.testing.assert_array_equal(one.boxes, expected.boxes)


def test_a_prompt_for_each_picture_in_batches(detector: Detector, pictures: list[np.ndarray]) -> None:
    p, q = Prompt.of("person. bicycle"), Prompt.of("traffic light")
    found = detector.detect([*pictures, pictures[0]], [p, q, q], batch_size=2)
    expected = [detector.detect(pictures, p)[0], detector.detect(pictures, q)[1], detector.detect(pictures[:1], q)[0]]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_as_many_prompts_as_pictures(detector: Detector, pictures: list[np.ndarray]) -> None:
    prompts = [Prompt.of("person")] * 3
    with pytest.raises(PromptError, match=r"3 prompts are given for 2 picture\(s\)"):
        detector.detect(pictures, prompts)
    with pytest.raises(PromptError):
        detector.detect(pictures, [Prompt.of("person"), "bicycle"])  # type: ignore[list-item]
    with pytest.raises(PromptError, match="empty"):
        detector.detect(pictures, [])
    assert detector.detect(pictures, ["person", "bicycle"])[0].classes == ("person", "bicycle")  # names, for both


@pytest.mark.parametrize("chunk", [None, 1])
def test_class_agnostic_nms(detector: Detector, pictures: list[np.ndarray], chunk: int | None) -> None:
    names = ["person", "bicycle", "a person", "traffic light"]
    plain = detector.detect(pictures, names, chunk=chunk)
    for before, after in zip(
        plain, detector.detect(pictures, names, chunk=chunk, class_agnostic_nms=True), strict=True
    ):
        expected = best_of_overlapping(before.boxes, before.scores, detector.config.detection.nms_threshold)
        assert 0 < len(expected) < len(before)
        np.testing.assert_array_equal(after.boxes, before.boxes[expected])
        np.testing.assert_array_equal(after.scores, before.scores[expected])
        np.testing.assert_array_equal(after.labels, before.labels[expected])


def best_of_overlapping(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Indices that stay, best first: the plainest form."""
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(iou(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """With 1 added to widths and heights."""
    w = min(one[2], other[2]) - max(one[0], other[0]) + 1
    h = min(one[3], other[3]) - max(one[1], other[1]) + 1
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other)]
    shared = max(w, 0) * max(h, 0)
    return shared / (areas[0] + areas[1] - shared)


def test_unk_prompt_warns_once_of_words_that_the_model_lacks(
    detector: Detector, pictures: list[np.ndarray], recwarn: pytest.WarningsRecorder
) -> None:
    encoded = detector.encode_images(pictures[:1])
    for prompt in ("\u732b. cat", ["\u732b", "cat"], "cat"):
        detector.detect_encoded(encoded, prompt)
    (warning,) = recwarn.list
    assert warning.category is GlipExportWarning and warning.filename == __file__
    assert "no word for '\u732b'" in str(warning.message)


def test_phrase_grounding(detector: Detector, pictures: list[np.ndarray]) -> None:
    text = "a person near a bicycle"
    prompt = Prompt.from_spans(text, [(0, 8), (14, 23)])
    (found,) = detector.detect(pictures[:1], prompt)
    assert set(found.names) <= {"a person", "a bicycle"} and len(found)


def test_no_pictures(detector: Detector) -> None:
    assert detector.detect([], "cat") == []


@pytest.mark.parametrize(
    ("images", "prompt", "options", "error"),
    [
        (np.zeros((64, 64, 3), np.uint8), "cat", {}, GlipExportError),
        ("photo.jpg", "cat", {}, GlipExportError),
        ([np.zeros((64, 64, 3), np.float32)], "cat", {}, ImageError),
        ([np.zeros((64, 64, 3), np.uint8)], " . ", {}, PromptError),
        ([np.zeros((64, 64, 3), np.uint8)], "cat", {"batch_size": 0}, GlipExportError),
    ],
)
def test_mistakes(detector: Detector, images, prompt, options, error) -> None:
    with pytest.raises(error):
        detector.detect(images, prompt, **options)


def test_too_narrow_names_the_file(detector: Detector, tmp_path: Path) -> None:
    narrow = Image.new("RGB", (6000, 2))
    narrow.save(tmp_path / "narrow.png")
    pixels = np.asarray(narrow)
    with Image.open(tmp_path / "narrow.png") as opened:
        for images, name in (
            ([tmp_path / "narrow.png"], f"'{tmp_path / 'narrow.png'}'"),
            ([opened], f"'{tmp_path / 'narrow.png'}'"),
            ([pixels], "the given array"),
            ([pixels[:, :60], pixels], "picture 2"),
            ([pixels[:, :1], pixels], "picture 1"),
        ):
            with pytest.raises(ImageError) as caught:
                detector.detect(images, "cat")
            assert str(caught.value).startswith(f"{name} is "), str(caught.value)


def test_unknown_backend(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="onnxruntime"):
        Detector.open(tiny_bundle, backend="tensorflow")


def test_torch_needs_the_right_weights(tiny_bundle: Path, oracle_tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes((oracle_tiny / "weights.pth").read_bytes() + b"\0")
    with pytest.raises(GlipExportError, match=r"other\.pth"):
        Detector.open(tiny_bundle, backend="torch", weights=other)
    moved = tmp_path / "moved.pth"
    moved.write_bytes((oracle_tiny / "weights.pth").read_bytes())
    assert Detector.open(tiny_bundle, backend="torch", weights=moved).session.name == "torch"


def test_the_runtime_needs_no_torch(tiny_bundle: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'yaml'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np\n"
        "from glip_export import Detector\n"
        f"detector = Detector.open({str(tiny_bundle)!r})\n"
        "print(len(detector.detect([np.zeros((200, 300, 3), np.uint8)], 'cat. remote control')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 0 <= int(done.stdout) <= 100
