"""What holds for every GLIP beyond the published ones, end to end in every backend: a class of tests.

A file of tests takes it with cases of its own, so that the files can run beside each other.
"""

from __future__ import annotations

import os

import numpy as np
import onnx_ir
import pytest
from compact_oracle import OracleCase
from oracle_detections import SCORE, check_detections
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import open_on_host

from glip_export import Detector
from glip_export.bundle import Bundle
from glip_export.graphs.modules import ModuleGraph
from glip_export.model.vl_fuse import LEVELS
from glip_export.parity.cases import built_in_cases
from glip_export.parity.precision_check import compare_detections
from glip_export.parity.recall import together
from glip_export.parity.run import Inputs, run
from glip_export.parity.trace import trace
from glip_export.prompt import Prompt
from glip_export.results.detections import Detections
from glip_export.runtime.backends import open_session
from glip_export.runtime.request_batch import BatchDetector
from glip_export.runtime.requests import Request
from glip_export.runtime.session import Session
from glip_export.runtime.torch_session import load_reference

RELATIVE = 2e-4  # max|diff|/rms
FUSIONS = ("mha_s", "separate_outside")
SWINS = ("swint_vl_nofuse", "swint_v2_ape", "swint_v2_vl")
TEXTS = ("prompt_tuned_nofuse", "mask_special")
# Their siblings, whose graphs have no other operators: an export takes a minute of a processor.
SIBLINGS = {
    FUSIONS: ("mha_s_noscale", "separate"),
    SWINS: ("swint_vl", "swint_v2"),
    TEXTS: ("prompt_tuned",),
}


def chosen(cases: tuple[str, ...]) -> tuple[str, ...]:
    """The cases of a file; with GLIP_EVERY_STRUCTURE (`make test-structures`) and their siblings."""
    return (*cases, *SIBLINGS[cases]) if os.environ.get("GLIP_EVERY_STRUCTURE") else cases


class StructureTests:
    """The original's own numbers, and what a service and a trace make of the bundle."""

    @pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
    def test_detections_are_the_originals(self, case: OracleCase, bundle: Bundle, backend: str) -> None:
        detector = Detector.open(bundle.path, backend, threads=1)
        check_detections(case, detector.detect(case.pictures(), case.prompt["names"]))

    def test_detections_of_the_lowered_graphs_are_the_originals(
        self, case: OracleCase, bundle: Bundle, host: HostKernels
    ) -> None:
        detector = Detector(open_on_host(bundle, host), bundle.config)
        check_detections(case, detector.detect(case.pictures(), case.prompt["names"]))

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_tensors_are_the_originals(self, case: OracleCase, bundle: Bundle, inputs: Inputs, backend: str) -> None:
        session = open_session(bundle, backend, threads=1)
        assert worst_tensor(case, bundle, inputs, session) < RELATIVE

    def test_bf16_finds_the_clear_detections_again(self, bundle: Bundle) -> None:
        from glip_export.runtime.openvino_session import supports_bf16

        if not supports_bf16():
            pytest.skip("openvino:bf16 needs our kernels with AVX2 or AVX-512")
        reference, fast = (open_session(bundle, backend, threads=1) for backend in ("torch", "openvino:bf16"))
        batches = [item.inputs(bundle.config) for item in built_in_cases(bundle.config)]
        diff = together(compare_detections(run(reference, batch), run(fast, batch)) for batch in batches)
        assert diff.counted > 200
        assert diff.within(), f"{diff.found} of {diff.counted}"

    def test_kernels_find_their_modules(self, bundle: Bundle) -> None:
        """What OpenVINO runs in kernels of ours.

        Not MHA-S, with one softmax, nor blocks of Swin with a layer scale or that attend to the text.
        """
        head, swin = bundle.config.head, bundle.config.swin
        blocks = ModuleGraph(onnx_ir.load(bundle.graph_path("vision_backbone"))).swin_blocks()
        found = ModuleGraph(onnx_ir.load(bundle.graph_path("fusion_head")))
        calls = (LEVELS if head.separates_levels else 1) if head.early_fusion and head.fusion == "MHA-B" else 0
        attentions = list(found.bi_attentions())
        assert len(attentions) == calls * head.num_convs
        assert head.separates_levels or all(attention.residual is not None for attention in attentions)
        assert len(list(found.dyconvs())) == head.num_convs
        text = ModuleGraph(onnx_ir.load(bundle.graph_path("text_encoder")))
        between = head.num_convs - (not head.fused_dot_product) if head.early_fusion else 0  # in either graph
        layers = len(list(text.bert_layers())) + len(list(found.bert_layers()))
        assert layers == bundle.config.text.bert.num_hidden_layers + between
        depths = () if swin.is_v2 and swin.layer_scale else swin.depths[:3] if swin.fuses_text else swin.depths
        assert len(list(blocks)) == sum(depths)

    def test_every_module_inside_the_graphs_is_the_models(self, bundle: Bundle, inputs: Inputs) -> None:
        steps = trace(load_reference(bundle), bundle, inputs)
        assert max(step.relative for step in steps) < RELATIVE
        names = " ".join(step.module for step in steps)
        assert all(f"dyhead_tower.{place}." in names for place in range(bundle.config.head.num_convs))

    def test_a_picture_is_answered_alone_as_in_company(self, case: OracleCase, bundle: Bundle) -> None:
        """Rows of one run with prompts of different lengths, as a service shares them."""
        detector = Detector.open(bundle.path, "torch", threads=1)
        pictures, names = case.pictures(), case.prompt["names"]
        prompts = [names, names[:1], names[::-1]]
        requests = [Request(picture, prompt) for picture in pictures for prompt in prompts]
        batch = BatchDetector(detector)
        answers = batch.detect_each(requests)
        assert len(batch.cache) == len(pictures)  # held: features, or where the backbone fuses text the picture
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
