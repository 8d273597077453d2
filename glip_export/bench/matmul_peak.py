"""The fastest matrix product this machine's libraries reach: what a graph's speed is held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from glip_export.processes import usable_cores

SIZES = (1024, 2048)  # square; libraries peak at different ones
BLOCK = 0.05  # seconds of products timed as one: a single one may fall into a burst of clock speed
BLOCKS = 4  # of each library, precision and size; the fastest counts


def matmul_peak(threads: int | None = None) -> dict[str, Any]:
    """{"fp32": GFLOP/s, "bf16": GFLOP/s or None, "fp32_by": ..., "bf16_by": ...}; a multiply-add is two FLOP.

    The best of NumPy and, where it is installed, torch's own product and its 1x1 convolution: the same product through
    oneDNN, on some processors twice as fast as torch.mm, whose MKL holds back on other makers'. threads: torch's;
    NumPy's library takes its own when it is loaded, so NumPy takes part only if threads are all cores. bf16 is None
    without torch.
    """
    found: dict[str, list[tuple[float, str]]] = {"fp32": [], "bf16": []}
    if threads is None or threads >= usable_cores():
        found["fp32"].append((_best(_numpy_product), "numpy"))
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(threads or torch.get_num_threads())
        with torch.inference_mode():
            for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
                found[precision].append((_best(partial(_torch_product, dtype=dtype)), "torch.mm"))
                found[precision].append((_best(partial(_torch_convolution, dtype=dtype)), "torch 1x1 convolution"))
    peak: dict[str, Any] = {}
    for precision, speeds in found.items():
        peak[precision], peak[f"{precision}_by"] = max(speeds, default=(None, None))
    return peak


def fastest(*peaks: dict[str, Any]) -> dict[str, Any]:
    """Of several measurements of `matmul_peak`, the best of each precision."""
    best: dict[str, Any] = {}
    for precision in ("fp32", "bf16"):
        winner = max(peaks, key=lambda peak: peak[precision] or 0.0)
        best |= {key: winner[key] for key in (precision, f"{precision}_by")}
    return best


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


def _torch_convolution(n: int, dtype: Any) -> Callable[[], Any]:
    """n positions, n channels in and out."""
    import torch

    last = torch.channels_last
    pixels = torch.ones(1, n, n // 32, 32, dtype=dtype).contiguous(memory_format=last)
    weight = torch.ones(n, n, 1, 1, dtype=dtype).contiguous(memory_format=last)
    return lambda: torch.nn.functional.conv2d(pixels, weight)
