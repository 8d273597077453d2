"""What OpenVINO's kernels compute in, module by module."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from glip_export.bundle import Bundle

pytest.importorskip("openvino")

import openvino
from openvino.frontend.onnx import ConversionExtension

from glip_export.errors import BackendError
from glip_export.runtime import openvino_kernels
from glip_export.runtime.openvino_session import _deform_conv


@pytest.mark.parametrize(
    ("has", "precision", "plain", "tolerant", "quantized"),
    [
        ({"has_int16": True, "has_int8": True}, "fp32", "fp32", "fp32", "int8"),
        ({"has_int16": True, "has_int8": True}, "bf16", "int16", "int8", "int8"),
        ({"has_int16": True, "has_int8": False}, "fp32", "fp32", "fp32", "int16"),
        ({"has_int16": True, "has_int8": False}, "bf16", "int16", "int16", "int16"),
        ({"has_int16": False, "has_int8": False}, "fp32", "fp32", "fp32", "fp32"),
    ],
)
def test_the_fastest_that_is_exact_enough(
    has: dict[str, bool], precision: str, plain: str, tolerant: str, quantized: str
) -> None:
    from glip_export.runtime.openvino_kernels import KernelPrecisions

    found = KernelPrecisions.of(SimpleNamespace(**has), precision)  # type: ignore[arg-type]
    assert (found.of_module(False), found.of_module(False, tolerant=True)) == (plain, tolerant)
    assert found.of_module(True) == found.of_module(True, tolerant=True) == quantized


def test_layers_of_bert_compute_what_openvino_does(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the graphs have, in whole numbers of 16 bits, of two texts, one padded; beside DyConv blocks."""
    from glip_export.graphs.modules import ModuleGraph
    from glip_export.runtime import openvino_session

    if not openvino_session.supports_bf16():
        pytest.skip("layers of BERT are OpenVINO's own without whole numbers of 16 bits")
    for others in ("swin_blocks", "bi_attentions"):
        monkeypatch.setattr(ModuleGraph, others, lambda graph: iter(()))
    monkeypatch.setattr(openvino_session, "what_hides_bf16", lambda: "this test")  # from OpenVINO's own operators
    counted: Counter[str] = Counter()

    def use_kernels(model: Any, path: Path, *rest: Any) -> None:
        openvino_kernels.use_kernels(model, path, *rest)
        counted[path.stem] += sum(operator.get_type_name() == "GlipBertLayer" for operator in model.get_ops())

    monkeypatch.setattr(openvino_session, "use_kernels", use_kernels)
    bundle = Bundle.open(tiny_bundle)
    own, ours = (openvino_session.OpenVinoSession(bundle, 2, word, cache=False) for word in ("fp32", "bf16"))
    bert, head = bundle.config.text.bert, bundle.config.head
    assert counted == {"text_encoder": bert.num_hidden_layers, "fusion_head": head.num_convs, "vision_backbone": 0}

    rng = np.random.default_rng(0)
    ids, mask = rng.integers(5, bert.vocab_size, (2, 11)), np.ones((2, 11), np.int64)
    mask[1, 7:] = 0
    text = own.text_encoder(ids, mask)
    _assert_near(ours.text_encoder(ids, mask), text)
    pyramid = own.vision_backbone(rng.standard_normal((2, 3, 64, 96), np.float32))
    class_map = np.eye(11, 3, dtype=np.float32)[None].repeat(2, 0)
    arguments = pyramid, text, mask, class_map, np.array([[64, 96]] * 2)
    (_, expected, *_), (_, scores, *_) = (session.fusion_head(*arguments) for session in (own, ours))
    _assert_near(np.sort(scores), np.sort(expected))


def test_dyconv_blocks_one_after_the_other_are_kernels_all(tiny_unfused_bundle: Path) -> None:
    """Without a fusion between them a block reads what the one before it gives, which is a kernel's by then."""
    try:
        kernels = openvino_kernels.load_kernels()
    except BackendError as error:
        pytest.skip(str(error))
    bundle = Bundle.open(tiny_unfused_bundle)
    core = openvino.Core()
    core.add_extension(ConversionExtension("DeformConv", _deform_conv))
    head = bundle.graph_path("fusion_head")
    model = core.read_model(str(head))
    openvino_kernels.use_kernels(model, head, kernels, openvino_kernels.KernelPrecisions(), 1)
    counted = Counter(operator.get_type_name() for operator in model.get_ops())
    assert counted["GlipDyConv"] == bundle.config.head.num_convs > 1 and not counted["DeformableConvolution"]


def _assert_near(got: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(got - expected).max() / np.sqrt((expected**2).mean())
    assert 0 < difference < 1e-2
