"""The card and its measured peaks, which the other figures are shares of."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

from context import Context, Part

TYPES = ("float16", "bfloat16", "tf32", "float32")
SIDE, COPY_BYTES = 8192, 1 << 30


def parts(context: Context) -> list[Part]:
    """What is here, what it can do at best."""
    return [
        ("machine", lambda: _machine(context)),
        ("peaks", lambda: _peaks(context)),
        ("launches", lambda: _launches(context)),
    ]


def _machine(context: Context) -> dict[str, Any]:
    import torch

    cuda = not context.rehearsal
    properties = torch.cuda.get_device_properties(0) if cuda else None
    tools = ("nvcc", "ncu", "nsys", "compute-sanitizer", "g++", "nvidia-smi")
    packages = (
        subprocess.run(
            ["nvidia-smi", "-q", "-d", "CLOCK,POWER,MEMORY"],
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        ).stdout
        if shutil.which("nvidia-smi")
        else ""
    )
    name = torch.cuda.get_device_name(0) if cuda else platform.processor()
    return {
        "line": f"{name}, torch {torch.__version__}, {os.cpu_count()} cores",
        "properties": str(properties),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tools": {tool: shutil.which(tool) or "" for tool in tools},
        "cores": os.cpu_count(),
        "nvidia_smi": packages,
    }


def _peaks(context: Context) -> dict[str, Any]:
    import torch

    side, copied = (256, 1 << 22) if context.rehearsal else (SIDE, COPY_BYTES)
    rates: dict[str, float] = {}
    for name in TYPES:
        dtype = torch.float32 if name in ("tf32", "float32") else getattr(torch, name)
        a, b = (torch.randn(side, side, device=context.device).to(dtype) for _ in range(2))
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        rates[name] = 2 * side**3 / _seconds(context, lambda a=a, b=b: a @ b) / 1e12
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.empty(copied, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    bandwidth = 2 * copied / _seconds(context, lambda: target.copy_(source)) / 1e12
    words = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    return {
        "line": f"products of {side}: {words} TFLOP/s; copy {bandwidth:.2f} TB/s, read and written",
        "matmul_tflops": rates,
        "copy_tb_per_second": bandwidth,
        "side": side,
        "copied_bytes": copied,
    }


def _launches(context: Context) -> dict[str, Any]:
    """How long a kernel of nothing takes: put by PyTorch, and of a CUDA graph of a thousand."""
    import torch

    x, count = torch.zeros(32, device=context.device), 1000

    def put() -> None:
        for _ in range(count):
            x.add_(1)

    eager = _seconds(context, put, 5) / count
    found = {"eager_us": eager * 1e6}
    if not context.rehearsal:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            put()
        found["graph_us"] = _seconds(context, graph.replay, 5) / count * 1e6
    return {"line": ", ".join(f"{key} {value:.2f}" for key, value in found.items()), **found}


def _seconds(context: Context, work: Callable[[], Any], runs: int = 20) -> float:
    """The best of some, after warming up; by the device's clock where it has one."""
    import torch

    runs = 2 if context.rehearsal else runs
    for _ in range(2):
        work()
    best = float("inf")
    for _ in range(runs):
        if context.rehearsal:
            started = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - started)
        else:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            work()
            last.record()
            last.synchronize()
            best = min(best, first.elapsed_time(last) / 1000)
    return best
