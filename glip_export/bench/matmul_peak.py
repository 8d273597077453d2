"""The fastest matrix product this machine's libraries reach: what a graph's speed is held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from glip_export.processes import usable_cores
from glip_export.runtime.cpu import cpu_features, why_no_bf16

PRECISIONS = ("fp32", "bf16", "int8")
SIZES = (128, 256, 512, 1024, 2048)  # square; each tells how long the next takes, at most
BLOCK = 0.05  # seconds of products timed as one: a single one may fall into a burst of clock speed
BLOCKS = 4  # of each library, precision and size of the two largest: libraries peak at different ones
BUDGET = 2.0  # seconds for a precision; what would take longer is not begun
EMULATED = 8  # times slower than fp32, and products are no products of the processor's

CHECKED = 256  # rows of the products of whole numbers that are compared with NumPy's

Product = Callable[[int], Callable[[], Any]]
Factors = tuple[np.ndarray, np.ndarray, Callable[[], Any]]  # what is multiplied, and what does it


def matmul_peak(threads: int | None = None) -> dict[str, Any]:
    """{"fp32": GFLOP/s or None, "fp32_by": ..., likewise bf16 and int8, "not_measured": {precision: why}}.

    A multiply-add is two FLOP, of whole numbers too. The best of NumPy and, where it is installed, torch's own product
    and its 1x1 convolution: the same product through oneDNN, on some processors twice as fast as torch.mm, whose MKL
    holds back on other makers'. threads: torch's; NumPy's library takes its own when it is loaded, so NumPy takes part
    only if threads are all cores. bf16 is measured where the processor has products of it: emulated, one takes minutes.
    int8: torch's products of int8 and oneDNN's of uint8 with int8, if what they give of random numbers is right.
    """
    peak: dict[str, Any] = {}
    not_measured: dict[str, str] = {}
    for precision in PRECISIONS:
        products, why_not = _products(precision, threads)
        speeds = [(best_speed(product, BUDGET / len(products)), name) for name, product in products.items()]
        speed, by = max(speeds, default=(None, None))
        if precision == "bf16" and speed is not None and cpu_features() is None and speed * EMULATED < peak["fp32"]:
            why_not = f"this CPU has no bf16 products: they are {peak['fp32'] / speed:.0f} times slower than fp32"
            speed = by = None
        peak |= {precision: speed, f"{precision}_by": by}
        if speed is None:
            not_measured[precision] = why_not
    return {**peak, "not_measured": not_measured}


def fastest(*peaks: dict[str, Any]) -> dict[str, Any]:
    """Of several measurements of `matmul_peak`, the best of each precision."""
    best: dict[str, Any] = {"not_measured": {}}
    for precision in PRECISIONS:
        winner = max(peaks, key=lambda peak: peak[precision] or 0.0)
        best |= {key: winner[key] for key in (precision, f"{precision}_by")}
        if winner[precision] is None:
            best["not_measured"][precision] = winner["not_measured"][precision]
    return best


def best_speed(product: Product, budget: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """GFLOP/s of the fastest block of products of any size that can be timed within `budget` seconds.

    product(n) gives what computes one of n x n. The smallest is always timed.
    """
    end = clock() + budget
    measured: list[tuple[int, Callable[[], Any], float]] = []
    for n in SIZES:
        if measured and clock() + 2 * measured[-1][2] * (n / measured[-1][0]) ** 3 > end:  # to warm up and to time
            break
        run = product(n)
        run()  # warm-up: threads start, pages are touched
        measured.append((n, run, _seconds(run, 1, clock)))
    best = max(2 * n**3 / each for n, _, each in measured)
    for n, run, each in measured[-2:]:
        for _ in range(BLOCKS):
            repeats = max(1, round(BLOCK / each))
            if clock() + repeats * each > end:
                break
            took = _seconds(run, repeats, clock) / repeats
            each, best = min(each, took), max(best, 2 * n**3 / took)  # the first may have met other work
    return best / 1e9


def _products(precision: str, threads: int | None) -> tuple[dict[str, Product], str]:
    """What computes products of a precision, by name; and why nothing does."""
    products: dict[str, Product] = {}
    if precision == "fp32" and (threads is None or threads >= usable_cores()):
        products["numpy"] = _numpy_product
    elif precision == "bf16" and (why_not := why_no_bf16(cpu_features())):
        return {}, why_not
    try:
        import torch
    except ImportError:
        return products, "torch is not installed"
    torch.set_num_threads(threads or torch.get_num_threads())
    if precision == "int8":
        return _int8_products()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    products["torch.mm"] = partial(_torch_product, dtype=dtype)
    products["torch 1x1 convolution"] = partial(_torch_convolution, dtype=dtype)
    return products, ""


def _int8_products() -> tuple[dict[str, Product], str]:
    """Those of whole numbers that this release of torch has and that give what NumPy gives."""
    products: dict[str, Product] = {}
    for name, factors in (("torch._int_mm", _int_mm), ("oneDNN's linear layer", _int8_linear)):
        with suppress(AttributeError, NotImplementedError, RuntimeError, TypeError):  # by release and processor
            left, right, product = factors(CHECKED)
            exact = left.astype(np.int64) @ right.astype(np.int64)
            if np.array_equal(np.asarray(product()).astype(np.int64), exact):
                products[name] = partial(_product_of, factors)
    return products, "" if products else "this torch has no products of int8 for this CPU"


def _product_of(factors: Callable[[int], Factors], n: int) -> Callable[[], Any]:
    return factors(n)[2]


def _int_mm(n: int) -> Factors:
    import torch

    left, right = (torch.randint(-128, 128, (n, n), dtype=torch.int8) for _ in range(2))
    return left.numpy(), right.numpy(), lambda: torch._int_mm(left, right)


def _int8_linear(n: int) -> Factors:
    """uint8 features times int8 weights, summed in int32, given as float32 as a layer gives them on."""
    import torch

    left = torch.randint(0, 256, (n, n), dtype=torch.uint8)
    weight = torch.randint(-128, 128, (n, n), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [n, n])
    scales, zero_points = torch.ones(n), torch.zeros(n, dtype=torch.int64)
    how: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
    return (
        left.numpy(),
        weight.numpy().T,
        lambda: torch.ops.onednn.qlinear_pointwise(left, 1.0, 0, packed, scales, zero_points, None, *how),
    )


def _seconds(run: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        run()
    return max(clock() - start, 1e-9)


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

    def run() -> Any:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(pixels, weight)

    return run
