"""Pictures seen at several scales and mirrored, on bundles exported for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import multiscale_oracle as oracle
import numpy as np
import pytest
from compact_oracle import OracleCase

from glip_export import Bundle, Detector, GlipExportError, GlipExportWarning, Prompt
from glip_export.config import GlipConfig, SizeRange, config_from_dict, config_to_dict
from glip_export.image import restore_boxes
from glip_export.parity.assignment import assign
from glip_export.results.detections import Detections
from glip_export.results.multiscale_nms import Boxes, merged
from glip_export.runtime.multiscale import EncodedScales, Pass, batch_of, lost_names, mirrored, passes_of, within
from glip_export.runtime.request_batch import BatchDetector
from glip_export.serving.triton.repository import write_repository

NAMES = ["person", "bicycle", "traffic light", "hair drier"]
BACKENDS = ("torch", "onnxruntime", "openvino")


@pytest.fixture(scope="module")
def pictures(tiny_oracle: OracleCase) -> list[np.ndarray]:
    return tiny_oracle.pictures()


@pytest.fixture(scope="module")
def detectors(several_scales_bundle: Path) -> dict[str, Detector]:
    return {word: Detector.open(several_scales_bundle, word, threads=1) for word in BACKENDS}


@pytest.fixture(scope="module")
def found(detectors: dict[str, Detector], pictures: list[np.ndarray]) -> dict[str, list[Detections]]:
    return {word: detector.detect(pictures, NAMES) for word, detector in detectors.items()}


def check_same(ours: Detections, theirs: Detections, box: float = 0.02, score: float = 1e-4) -> None:
    assert len(ours) == len(theirs) > 0
    far = np.abs(ours.boxes[:, None].astype(np.float64) - theirs.boxes).max(2)
    far = far + 1e3 * np.abs(ours.scores[:, None] - theirs.scores)
    rows, columns = assign(far, ours.labels[:, None] == theirs.labels)
    assert len(rows) == len(ours)
    np.testing.assert_allclose(ours.boxes[rows], theirs.boxes[columns], atol=box)
    np.testing.assert_allclose(ours.scores[rows], theirs.scores[columns], atol=score)


def check_equal(ours: Sequence[Detections], theirs: Sequence[Detections]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) == len(other) > 0 and one.classes == other.classes and one.image_size == other.image_size
        for part in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))


# --- the passes, against the original's


def test_passes_in_the_originals_order_and_sizes(detectors: dict[str, Detector]) -> None:
    width, height = oracle.case()["raw_size_wh"]
    picture = np.zeros((height, width, 3), np.uint8)
    passes = passes_of(detectors["torch"].config)
    steps = oracle.case()["steps"]
    assert [(one.image.min_size, one.mirrored) for one in passes] == [(s["scale"], s["hflip"]) for s in steps]
    for one, step in zip(passes, steps, strict=True):
        assert batch_of(one, [picture], [""]).sizes[0].tolist() == step["size_wh"][::-1]


def test_what_the_originals_passes_found_is_what_it_merged(detectors: dict[str, Detector]) -> None:
    """The best 40 of each pass: those of the wrong size are not there, the others at their place."""
    width, height = oracle.case()["raw_size_wh"]
    everything, start = oracle.merged_input(), 0
    for one, step in zip(passes_of(detectors["torch"].config), oracle.case()["steps"], strict=True):
        own = everything.part(np.arange(start, start := start + step["kept_by_range"]))
        best = oracle.best_of_pass(step)
        assert one.sizes is not None
        kept = best.part(within(best.boxes, one.sizes))
        boxes = restore_boxes(kept.boxes, tuple(step["size_wh"][::-1]), (height, width))
        for box, score, label in zip(boxes, kept.scores, kept.labels, strict=True):
            there = (own.scores == score) & (own.labels == label)
            assert np.abs(own.boxes[there] - box).max(1).min() < 1e-3
        gone = best.part(~within(best.boxes, one.sizes))
        assert not np.isin(gone.scores, own.scores).any()
        assert len(kept.scores) + len(gone.scores) == 40
    assert start == len(everything.scores)


def test_sizes_are_counted_with_one_added_and_never_reached() -> None:
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 10], [0, 0, 19, 18], [0, 0, 19, 19]], np.float32)
    assert within(boxes, SizeRange(10, 20)).tolist() == [False, True, True, False]


def test_mirroring() -> None:
    box = np.array([[1, 2, 30, 40]], np.float32)
    assert mirrored(box, 100).tolist() == [[69, 2, 98, 40]]
    assert mirrored(mirrored(box, 100), 100).tolist() == box.tolist()


def test_a_mirrored_pass_is_resized_first_and_padded_last(
    detectors: dict[str, Detector], pictures: list[np.ndarray]
) -> None:
    plain, flipped = (batch_of(one, pictures, ["", ""]) for one in passes_of(detectors["torch"].config)[:2])
    np.testing.assert_array_equal(plain.sizes, flipped.sizes)
    for index, (h, w) in enumerate(plain.sizes):
        np.testing.assert_array_equal(flipped.images[index, :, :h, :w], plain.images[index, :, :h, :w][..., ::-1])
        assert not flipped.images[index, :, h:].any() and not flipped.images[index, :, :, w:].any()
    assert plain.images.shape[2] % 32 == plain.images.shape[3] % 32 == 0


# --- end to end


def by_hand(detector: Detector, pictures: list[np.ndarray]) -> list[Boxes]:
    """The passes one after the other by what a bundle of one scale offers, box by box."""
    seen: list[list[tuple[list[float], float, int]]] = [[] for _ in pictures]
    own = detector.config.multiscale
    for scale, area in zip(own.scales, own.ranges, strict=True):
        for flips in (False, True):
            image = replace(detector.config.image, min_size=scale, max_size=own.max_size)
            batch = batch_of(Pass(image, None, flips), pictures, ["", ""])
            encoded = detector.encode_batch(batch)
            (chunk,) = detector.chunks(Prompt.of(NAMES))
            boxes, scores, labels, count = detector._find(encoded, chunk)
            for index, (h, w) in enumerate(batch.sizes.tolist()):
                height, width = pictures[index].shape[:2]
                n = count[index]
                columns = (*boxes[index, :n].T.tolist(), scores[index, :n].tolist(), labels[index, :n].tolist())
                for x1, y1, x2, y2, score, label in zip(*columns, strict=True):
                    if flips:
                        x1, x2 = w - 1 - x2, w - 1 - x1
                    if area.low**2 < (x2 - x1 + 1) * (y2 - y1 + 1) < area.high**2:
                        box = [x1 * width / w, y1 * height / h, x2 * width / w, y2 * height / h]
                        seen[index].append((box, score, label))
    tables = [[np.array(part) for part in zip(*each, strict=True)] for each in seen]
    return [Boxes(b.astype(np.float32), s.astype(np.float32), n) for b, s, n in tables]


def test_detections_are_those_of_the_passes_by_hand(
    detectors: dict[str, Detector], pictures: list[np.ndarray], found: dict[str, list[Detections]]
) -> None:
    for ours, picture, everything in zip(found["torch"], pictures, by_hand(detectors["torch"], pictures), strict=True):
        assert len(everything.scores) > len(ours)
        expected = merged(everything, detectors["torch"].config.multiscale)
        check_same(ours, Detections(*expected, tuple(NAMES), picture.shape[:2]), 1e-3, 1e-6)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("form", oracle.FORMS)
def test_backends_find_the_same(
    detectors: dict[str, Detector], pictures: list[np.ndarray], backend: str, form: str
) -> None:
    ours, theirs = (
        Detector(detectors[word].session, with_settings(detectors[word].config, special_nms=form)).detect(
            pictures[:1], NAMES
        )
        for word in (backend, "torch")
    )
    check_same(ours[0], theirs[0])


def test_there_is_no_limit_of_a_hundred(found: dict[str, list[Detections]]) -> None:
    for detections in found["onnxruntime"]:
        assert len(detections) > 100 and (np.diff(detections.scores) <= 0).all()


def test_encoded_pictures_take_any_number_of_prompts(
    detectors: dict[str, Detector], pictures: list[np.ndarray], found: dict[str, list[Detections]]
) -> None:
    detector = detectors["onnxruntime"]
    encoded = detector.encode_images(pictures)
    assert isinstance(encoded, EncodedScales) and len(encoded.passes) == 6
    check_equal(detector.detect_encoded(encoded, NAMES), found["onnxruntime"])
    check_equal(detector.detect_encoded(encoded, "cup. cat"), detector.detect(pictures, "cup. cat"))


def test_a_batch_is_padded_together_in_each_pass_and_alone_otherwise(
    detectors: dict[str, Detector], pictures: list[np.ndarray]
) -> None:
    detector = detectors["onnxruntime"]
    alone = [detector.detect([picture], "cup. cat")[0] for picture in pictures]
    check_equal(detector.detect(pictures, "cup. cat", batch_size=1), alone)
    together = detector.detect(pictures, "cup. cat")[0]
    assert len(together) != len(alone[0]) or not np.array_equal(together.scores, alone[0].scores)


def test_a_prompt_a_picture(detectors: dict[str, Detector], pictures: list[np.ndarray]) -> None:
    detector = detectors["onnxruntime"]
    prompts = [Prompt.of("cup. cat"), Prompt.of(NAMES)]
    first, second = detector.detect(pictures, prompts)
    check_same(first, detector.detect(pictures, prompts[0])[0], 1e-3, 1e-5)
    check_same(second, detector.detect(pictures, prompts[1])[1], 1e-3, 1e-5)


def test_every_caption_of_a_long_prompt_is_asked(detectors: dict[str, Detector], pictures: list[np.ndarray]) -> None:
    """The original runs the last one alone; what that gives is what is here of its names."""
    detector = detectors["onnxruntime"]
    (chunked,) = detector.detect(pictures[:1], NAMES, chunk=2)
    assert set(chunked.labels) == {0, 1, 2, 3} and chunked.classes == tuple(NAMES)
    for first in (0, 2):
        (part,) = detector.detect(pictures[:1], NAMES[first : first + 2])
        own = np.isin(chunked.labels, (first, first + 1))
        np.testing.assert_array_equal(chunked.boxes[own], part.boxes)
        np.testing.assert_array_equal(chunked.labels[own] - first, part.labels)


def test_the_limit_is_one_for_all_captions(detectors: dict[str, Detector], pictures: list[np.ndarray]) -> None:
    one = detectors["onnxruntime"]
    (all_of_them,) = one.detect(pictures[:1], NAMES, chunk=2)
    limited = Detector(one.session, with_settings(one.config, most=50))
    (found,) = limited.detect(pictures[:1], NAMES, chunk=2)
    assert len(all_of_them) > 200
    np.testing.assert_array_equal(found.scores, all_of_them.scores[all_of_them.scores >= all_of_them.scores[49]])


def test_one_over_all_names(detectors: dict[str, Detector], pictures: list[np.ndarray]) -> None:
    detector = detectors["onnxruntime"]
    (plain,) = detector.detect(pictures[:1], NAMES)
    (found,) = detector.detect(pictures[:1], NAMES, class_agnostic_nms=True)
    check_equal([found], [plain.class_agnostic_nms(detector.config.detection.nms_threshold)])
    assert len(found) < len(plain)


# --- names beyond NUM_CLASSES


def with_settings(config: GlipConfig, **changes: object) -> GlipConfig:
    return replace(config, multiscale=replace(config.multiscale, **changes))


def test_names_that_are_lost_are_told_once(detectors: dict[str, Detector], pictures: list[np.ndarray]) -> None:
    detector = Detector(detectors["onnxruntime"].session, detectors["onnxruntime"].config)
    six = [*NAMES, "cup", "cat"]
    with pytest.warns(
        GlipExportWarning, match="of 2 of the prompt's 6 names: .*NUM_CLASSES 5 takes the first 4"
    ) as told:
        (first,) = detector.detect(pictures[:1], six)
        (again,) = detector.detect(pictures[:1], six)
    assert len(told) == 1 and first.labels.max() <= 3 and first.classes == tuple(six)
    check_equal([first], [again])
    chosen = Detector(detector.session, with_settings(detector.config, select_classes=(6, 1)))
    with pytest.warns(GlipExportWarning, match="of 4 of .*SELECT_CLASSES takes numbers 6, 1"):
        assert set(chosen.detect(pictures[:1], six)[0].labels) == {0, 5}


def test_nothing_is_told_where_nothing_is_lost(detectors: dict[str, Detector]) -> None:
    config = detectors["onnxruntime"].config
    assert lost_names(Prompt.of(NAMES), config) == ()
    one_scale = replace(config, detection=replace(config.detection, several_scales=False))
    assert lost_names(Prompt.of([*NAMES, "cup"]), one_scale) == ()


# --- the bundle, and who does not take it


def test_the_manifest_says_it_all(several_scales_bundle: Path) -> None:
    bundle = Bundle.open(several_scales_bundle)
    assert bundle.config.detection.several_scales and bundle.config.multiscale == oracle.settings("none")
    values = json.loads((several_scales_bundle / "manifest.json").read_text())["config"]
    assert config_from_dict(values) == bundle.config == config_from_dict(config_to_dict(bundle.config))


def test_services_and_triton_refuse_it_in_a_line(
    detectors: dict[str, Detector], several_scales_bundle: Path, tmp_path: Path
) -> None:
    for refuse in (
        lambda: BatchDetector(detectors["onnxruntime"]),
        lambda: write_repository(several_scales_bundle, tmp_path / "repository"),
    ):
        with pytest.raises(GlipExportError, match=r"TEST\.USE_MULTISCALE\): it is for detect and eval") as caught:
            refuse()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "repository").exists()
