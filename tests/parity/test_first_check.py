"""The quick look at a fresh bundle: small where all is well, infinite where a box is wrong."""

from __future__ import annotations

import math
from pathlib import Path

from glip_export.bundle import Bundle
from glip_export.model.glip import Glip
from glip_export.parity.first_check import first_check
from glip_export.runtime.onnxruntime_session import OnnxRuntimeSession
from glip_export.runtime.torch_session import TorchSession


def test_a_right_bundle_differs_little(tiny_model: Glip, tiny_bundle: Path) -> None:
    found = first_check(TorchSession(tiny_model), OnnxRuntimeSession(Bundle.open(tiny_bundle)), tiny_model.config)
    assert set(found) == {"text_encoder", "vision_backbone", "fusion_head"}
    assert max(found.values()) < 1e-4


def test_a_moved_box_is_told(tiny_model: Glip, tiny_bundle: Path) -> None:
    class Moved(OnnxRuntimeSession):
        def fusion_head(self, *arguments):
            boxes, *rest = super().fusion_head(*arguments)
            return (boxes + 1, *rest)

    found = first_check(TorchSession(tiny_model), Moved(Bundle.open(tiny_bundle)), tiny_model.config)
    assert found["fusion_head"] == math.inf and found["text_encoder"] < 1e-4
