"""torch:cuda on a bundle of several scales, its kernels in plain C++."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from compact_oracle import OracleCase
from host_device import open_on_host
from plugins.host_kernels import HostKernels

from glip_export import Bundle, Detector
from glip_export.parity.metrics import Tolerance
from glip_export.parity.pairing import Detections, pair


def test_detections_are_those_of_onnxruntime(
    several_scales_bundle: Path, host: HostKernels, tiny_oracle: OracleCase
) -> None:
    bundle = Bundle.open(several_scales_bundle)
    detector = Detector(open_on_host(bundle, host, "fp32"), bundle.config)
    reference = Detector.open(several_scales_bundle, threads=1)
    names = tiny_oracle.prompt["names"]
    (ours,), (theirs,) = (one.detect(tiny_oracle.pictures()[:1], names) for one in (detector, reference))
    lists = [Detections(found.boxes, found.scores, found.labels) for found in (theirs, ours)]
    difference = pair(*lists, Tolerance(box_px=0.02, score=1e-4))
    assert difference.paired == len(theirs) == len(ours) > 100 and difference.box_px < 0.02
    assert np.isfinite(ours.boxes).all()
