"""The backend torch:cuda on a fake GPU against the original's own numbers, and against the backend torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compact_oracle import OracleCase
from near_ties import assert_same_detections
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import open_on_host

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.parity.metrics import compare
from glip_export.parity.pairing import Detections
from glip_export.parity.recall import found_again, together
from glip_export.parity.run import Inputs, Outputs, TextInputs, run
from glip_export.runtime.backends import open_session

RELATIVE, BOX_PX, SCORE = 1e-4, 0.02, 1e-4


@pytest.fixture(scope="module", params=["tiny", "tiny_unfused"])
def oracle(request: pytest.FixtureRequest) -> OracleCase:
    return OracleCase(request.param)


@pytest.fixture(scope="module")
def bundle(oracle: OracleCase, request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(request.getfixturevalue(f"{oracle.name}_bundle"), verify=False)


@pytest.fixture(scope="module")
def inputs(oracle: OracleCase, bundle: Bundle) -> Inputs:
    """The drawn pictures as one batch, and the caption padded as the original pads it."""
    from glip_export.image import preprocess

    batch = preprocess(oracle.pictures(), bundle.config.image)
    ids, mask = oracle.stored["input_ids"][0], oracle.stored["attention_mask"][0]
    class_map = oracle.class_map(len(ids))[0]
    return Inputs(batch.images, batch.sizes, (TextInputs(ids.astype(np.int64), mask.astype(np.int64), class_map),))


@pytest.fixture(scope="module")
def reference(bundle: Bundle, inputs: Inputs) -> Outputs:
    return run(open_session(bundle, "torch", threads=1), inputs)


@pytest.fixture(scope="module")
def found(bundle: Bundle, host: HostKernels, inputs: Inputs) -> Outputs:
    return run(open_on_host(bundle, host, "fp32"), inputs)


def per_picture(outputs: Outputs) -> list[Detections]:
    (chunk,) = outputs.chunks
    pictures = zip(chunk.boxes, chunk.scores, chunk.labels, chunk.count, strict=True)
    return [Detections(boxes[:n], scores[:n], labels[:n]) for boxes, scores, labels, n in pictures]


def original(oracle: OracleCase, image: int) -> Detections:
    """The original's, best first: its own order means nothing."""
    boxes, scores, labels = (oracle.stored[f"result{image}_{part}"] for part in ("boxes", "scores", "labels"))
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], labels[order] - 1)


def test_features_equal_the_originals(oracle: OracleCase, found: Outputs) -> None:
    far = {"bert_hidden": oracle.compare("bert_hidden", np.asarray(found.chunks[0].text_features))}
    for level, feature in zip(range(3, 8), found.features, strict=True):
        far[f"fpn_P{level}"] = oracle.compare(f"fpn_P{level}", np.asarray(feature))
    assert all(value < RELATIVE for value in far.values()), far


def test_features_equal_those_of_torch(found: Outputs, reference: Outputs) -> None:
    pairs = [(reference.chunks[0].text_features, found.chunks[0].text_features)]
    pairs += zip(reference.features, found.features, strict=True)
    far = [compare(np.asarray(theirs), np.asarray(ours)).relative for theirs, ours in pairs]
    assert len(far) == 6 and all(value < RELATIVE for value in far), far


def test_detections_equal_the_originals_and_those_of_torch(
    oracle: OracleCase, found: Outputs, reference: Outputs
) -> None:
    ours, theirs = per_picture(found), per_picture(reference)
    assert len(ours) == len(theirs) == 2
    for image in range(2):
        for expected in (original(oracle, image), theirs[image]):
            assert_same_detections(ours[image], expected, pixels=BOX_PX, score=SCORE)


def test_fp32_in_the_drawn_pictures_pixels(oracle: OracleCase, bundle: Bundle, host: HostKernels) -> None:
    detector = Detector(open_on_host(bundle, host, "fp32"), bundle.config)
    for image, result in enumerate(detector.detect(oracle.pictures(), oracle.prompt["caption"])):
        expected = original(oracle, image)
        order = np.argsort(-oracle.stored[f"result{image}_scores"], kind="stable")
        boxes = oracle.stored[f"result{image}_orig_boxes"][order]
        found = Detections(result.boxes, result.scores, result.labels)
        wanted = Detections(boxes, expected.scores, expected.labels)
        assert_same_detections(found, wanted, pixels=BOX_PX, score=SCORE)


def test_fp16_finds_the_originals_clear_detections(
    oracle: OracleCase, bundle: Bundle, host: HostKernels, inputs: Inputs
) -> None:
    half: Any = per_picture(run(open_on_host(bundle, host, "fp16"), inputs))
    result = together(found_again(original(oracle, image), half[image]) for image in range(2))
    assert result.counted > 0 and result.within(0.95), f"{result.found} of {result.counted}"
