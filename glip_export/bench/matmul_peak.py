"""The fastest matrix product this machine's libraries reach: what a graph's speed is held against."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

SIZES = (1024, 2048, 3072)  # square; libraries peak at different ones
BLOCK = 0.05  # seconds of products timed as one: a single one may fall into a burst of clock speed
BLOCKS = 4  # of each library, precision and size; the fastest counts


def matmul_peak(threads: int | None = None) -> dict[str, Any]:
    """{"fp32": GFLOP/s, "bf16": GFLOP/s or None, "fp32_by": ..., "bf16_by": ...}; a multiply-add is two FLOP.

    The best of NumPy and, where it is installed, torch. threads: torch's; NumPy's library takes its own from the
    environment when it is loaded, so NumPy takes part only if threads are all cores. bf16 is None without torch.
    """
    found: dict[str, tuple[float, str]] = {}
    if threads is None or threads >= (os.cpu_count() or 1):
        found["fp32"] = _best(_numpy_product), "numpy"
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(threads or torch.get_num_threads())
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            speed = _best(partial(_torch_product, dtype=dtype))
            found[precision] = max(found.get(precision, (0.0, "")), (speed, "torch"))
    peak: dict[str, Any] = {}
    for precision in ("fp32", "bf16"):
        peak[precision], peak[f"{precision}_by"] = found.get(precision, (None, None))
    return peak


def _best(product: Callable[[int], Callable[[], Any]]) -> float:
    """GFLOP/s of the fastest block of products of any size."""
    best = 0.0
    for n in SIZES:
        run = product(n)
        run()  # warm-up: threads start, pages are touched
        repeats = max(1, round(BLOCK / _seconds(run, 1)))
        best = max(best, *(2 * n**3 * repeats / _seconds(run, repeats) / 1e9 for _ in range(BLOCKS)))
    return best


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return max(time.perf_counter() - start, 1e-9)


def _numpy_product(n: int) -> Callable[[], Any]:
    a, b, out = (np.ones((n, n), np.float32) for _ in range(3))
    return lambda: np.matmul(a, b, out=out)


def _torch_product(n: int, dtype: Any) -> Callable[[], Any]:
    import torch

    a, b, out = (torch.ones(n, n, dtype=dtype) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)
