"""How near the kernels come to what they replace."""

from __future__ import annotations

import numpy as np
import torch

from glip_export.runtime.native import Kernels
from glip_export.runtime.native.kernels import PRECISIONS

FP32 = 2e-5  # of the output's root mean square
TOLERANCES = {"fp32": FP32, "int16": 1e-2, "int8": 1e-1}


def precisions(kernels: Kernels, names: tuple[str, ...] = PRECISIONS) -> list[tuple[str, float]]:
    """Those of the names that the kernels have, and their tolerances."""
    return [(name, TOLERANCES[name]) for name in names if name == "fp32" or getattr(kernels, f"has_{name}")]


def assert_near(got: np.ndarray, expected: torch.Tensor, tolerance: float) -> None:
    """The largest error as a part of the expected values' root mean square."""
    want = expected.numpy()
    error = np.abs(got - want).max() / np.sqrt((want**2).mean())
    assert error <= tolerance
