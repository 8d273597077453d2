"""The model runs where its weights and inputs are: nothing is made on the default device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glip_export.model.glip import Glip


@pytest.mark.parametrize("folds", [False, True])
def test_nothing_is_made_on_the_default_device(
    tiny_model: Glip, tiny_io: dict[str, np.ndarray], tiny_class_map: np.ndarray, folds: bool
) -> None:
    io = {name: torch.from_numpy(tiny_io[name]) for name in ("image_batch", "input_ids", "attention_mask")}
    class_map = torch.from_numpy(tiny_class_map).expand(len(io["image_batch"]), -1, -1)
    sizes = torch.tensor([io["image_batch"].shape[2:]] * len(class_map))
    inputs = (io["image_batch"], io["input_ids"], io["attention_mask"], class_map, sizes)
    tiny_model.fusion_head.fold(folds)
    try:
        expected = tiny_model(*inputs)
        # With "meta" as the default device, a tensor made without its own device cannot meet one of the CPU's.
        with torch.device("meta"):
            given = tiny_model(*inputs)
    finally:
        tiny_model.fusion_head.fold(False)
    assert expected[3].min() > 0  # there are detections, so that every step has run
    for value, want in zip(given, expected, strict=True):
        assert value.device.type == "cpu"
        assert torch.equal(value, want)
