"""How near the kernels come to what they replace."""

from __future__ import annotations

import numpy as np
import torch

from glip_export.runtime.native import Kernels

FP32 = 2e-5  # of the output's root mean square
BF16 = 3e-2


def precisions(kernels: Kernels) -> list[tuple[bool, float]]:
    """Whether in bf16, and the tolerance: of those that the kernels have."""
    return [(False, FP32), (True, BF16)] if kernels.has_bf16 else [(False, FP32)]


def assert_near(got: np.ndarray, expected: torch.Tensor, tolerance: float) -> None:
    """The largest error as a part of the expected values' root mean square."""
    want = expected.numpy()
    error = np.abs(got - want).max() / np.sqrt((want**2).mean())
    assert error <= tolerance
