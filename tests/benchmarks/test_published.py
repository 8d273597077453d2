"""The published rows of the GPU benchmark: kernels in the place of the plain forms change no result."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from near_ties import assert_same_detections
from plugins.host_kernels import HostKernels
from runtime.torch_cuda.host_device import use_host_kernels

from glip_export.model import dyconv, selection
from glip_export.model.glip import Glip

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

from published import device_kernels


@pytest.fixture
def inputs(tiny_io: dict[str, np.ndarray], tiny_class_map: np.ndarray) -> tuple[torch.Tensor, ...]:
    images, ids, mask = (torch.from_numpy(tiny_io[name]) for name in ("image_batch", "input_ids", "attention_mask"))
    class_map = torch.from_numpy(tiny_class_map).expand(len(images), -1, -1)
    return images, ids, mask, class_map, torch.tensor([images.shape[2:]] * len(images))


def test_the_kernels_leave_the_detections_as_they_are(
    tiny_model: Glip, inputs: tuple[torch.Tensor, ...], host: HostKernels
) -> None:
    use_host_kernels(host)
    expected = tiny_model(*inputs)
    with device_kernels():
        boxes, scores, labels, count = tiny_model(*inputs)
    assert count.min() > 0 and torch.equal(count, expected[3])
    pixels, score = (1e-4 * float(values.square().mean().sqrt()) for values in expected[:2])
    for image, found in enumerate(count.tolist()):
        ours, theirs = (
            SimpleNamespace(boxes=b[image, :found], scores=s[image, :found], labels=c[image, :found])
            for b, s, c in ((part.numpy() for part in given[:3]) for given in ((boxes, scores, labels), expected))
        )
        assert_same_detections(ours, theirs, pixels=pixels, score=score)


def test_the_deformable_convolution_stays_in_float32_under_autocast(
    tiny_model: Glip, inputs: tuple[torch.Tensor, ...], host: HostKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_host_kernels(host)
    types: list[torch.dtype] = []
    with device_kernels():
        plain = dyconv.modulated_deform_conv

        def noted(*arguments: torch.Tensor) -> torch.Tensor:
            out = plain(*arguments)
            types.append(out.dtype)
            return out

        monkeypatch.setattr(dyconv, "modulated_deform_conv", noted)
        with torch.autocast("cpu", torch.bfloat16):
            found = tiny_model(*inputs)
        monkeypatch.undo()
    assert set(types) == {torch.float32}
    assert found[3].min() > 0


def test_the_model_is_as_it_was_afterwards() -> None:
    before = dyconv.modulated_deform_conv, selection.best_after_nms, selection.top_k
    with pytest.raises(RuntimeError), device_kernels():
        assert dyconv.modulated_deform_conv is not before[0]
        raise RuntimeError
    assert (dyconv.modulated_deform_conv, selection.best_after_nms, selection.top_k) == before
