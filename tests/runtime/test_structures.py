"""Every GLIP beyond the published ones, end to end in every backend, against the original's own numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from compact_oracle import OracleCase, cases
from oracle_detections import SCORE, check_detections
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import open_on_host

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.image import preprocess
from glip_export.parity.run import Inputs, TextInputs
from glip_export.parity.trace import trace
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.runtime.backends import open_session
from glip_export.runtime.request_batch import BatchDetector
from glip_export.runtime.requests import Request
from glip_export.runtime.session import Session
from glip_export.runtime.torch_session import load_reference

STRUCTURES = [name for name in cases() if name not in ("glip_t", "tiny", "tiny_unfused")]
RELATIVE = 2e-4  # max|diff|/rms


@pytest.fixture(scope="module", params=STRUCTURES)
def case(request: pytest.FixtureRequest) -> OracleCase:
    return OracleCase(request.param)


@pytest.fixture(scope="module")
def bundle(case: OracleCase, oracle_bundle: Callable[[OracleCase], Path]) -> Bundle:
    return Bundle.open(oracle_bundle(case), verify=False)


@pytest.fixture(scope="module")
def inputs(case: OracleCase, bundle: Bundle) -> Inputs:
    """The original's own pictures and caption, without its padding."""
    batch = preprocess(case.pictures(), bundle.config.image)
    ids = np.array(case.prompt["input_ids"])
    text = TextInputs(ids, np.ones_like(ids), case.class_map(len(ids))[0])
    return Inputs(batch.images, batch.sizes, (text,), bundle.config.swin.fuses_text)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_detections_are_the_originals(case: OracleCase, bundle: Bundle, backend: str) -> None:
    detector = Detector.open(bundle.path, backend, threads=1)
    check_detections(case, detector.detect(case.pictures(), case.prompt["names"]))


def test_detections_of_the_lowered_graphs_are_the_originals(
    case: OracleCase, bundle: Bundle, host: HostKernels
) -> None:
    detector = Detector(open_on_host(bundle, host), bundle.config)
    check_detections(case, detector.detect(case.pictures(), case.prompt["names"]))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_tensors_are_the_originals(case: OracleCase, bundle: Bundle, inputs: Inputs, backend: str) -> None:
    session = open_session(bundle, backend, threads=1)
    assert worst_tensor(case, bundle, inputs, session) < RELATIVE


def test_every_module_inside_the_graphs_is_the_models(bundle: Bundle, inputs: Inputs) -> None:
    steps = trace(load_reference(bundle), bundle, inputs)
    assert max(step.relative for step in steps) < RELATIVE
    names = " ".join(step.module for step in steps)
    assert all(f"dyhead_tower.{place}." in names for place in range(bundle.config.head.num_convs))


def test_a_picture_is_answered_alone_as_in_company(case: OracleCase, bundle: Bundle) -> None:
    """Rows of one run with prompts of different lengths, as a service shares them."""
    detector = Detector.open(bundle.path, "torch", threads=1)
    pictures, names = case.pictures(), case.prompt["names"]
    prompts = [names, names[:1], names[::-1]]
    requests = [Request(picture, prompt) for picture in pictures for prompt in prompts]
    answers = BatchDetector(detector).detect_each(requests)
    for request, answer in zip(requests, answers, strict=True):
        assert isinstance(answer, Detections)
        (alone,) = detector.detect([request.image], Prompt.of(request.prompt))
        assert len(alone) == len(answer)
        np.testing.assert_allclose(np.sort(answer.scores), np.sort(alone.scores), atol=SCORE)


def worst_tensor(case: OracleCase, bundle: Bundle, inputs: Inputs, session: Session) -> float:
    """max|diff|/rms of what leaves the graphs, where the original's is stored."""
    (text,) = inputs.chunks
    batch = len(inputs.images)
    ids, mask = (np.repeat(array[None], batch, 0) for array in (text.input_ids, text.attention_mask))
    encoded = session.text_encoder(ids, mask)
    given = (inputs.images, encoded, mask) if inputs.fuses_text else (inputs.images,)
    outputs = session.vision_backbone(*given)
    width = bundle.config.text.bert.hidden_size
    first = "head_in_hidden" if bundle.config.text_runs_ahead else "bert_hidden"
    compared = {first: encoded[..., :width], **{f"fpn_P{level}": outputs[level - 3] for level in range(3, 8)}}
    if bundle.config.text_runs_ahead:
        for block in range(bundle.config.head.num_convs):
            name = f"tower{3 * block + 1:02d}_BertEncoderLayer_lang"
            compared[name] = encoded[..., (block + 1) * width : (block + 2) * width]
    if inputs.fuses_text:
        compared["swin_lang"] = outputs[5]
    return max(case.compare(name, np.asarray(array)) for name, array in compared.items())
