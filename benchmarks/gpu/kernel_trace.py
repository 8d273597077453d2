"""One stage's kernels, as PyTorch's profiler sees them: which, how often, how long, and the gaps between."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

TOP = 25
CLASSES = (  # the first whose pattern is in a kernel's name
    ("ours: im2col", r"im2col"),
    ("ours: DyConv", r"dyconv"),
    ("ours: Swin", r"window_attention|add_norm"),
    ("ours: bi-attention", r"text_reads|text_combine|image_reads"),
    ("ours: text layer", r"text_(attention|norm|gelu)"),
    ("ours: candidates", r"candidates"),
    ("ours: NMS", r"glip|nms"),
    ("copies", r"memcpy|memset"),
    ("products and convolutions", r"gemm|gemv|cutlass|xmma|wgmma|nvjet|splitk|conv|aten::(mm|addmm|bmm|baddbmm)"),
    ("softmax", r"softmax"),
    ("norms", r"layer_?norm|group_?norm|batch_?norm|rowwisemoments"),
    ("sorting", r"sort|topk|radix|scan|gather_?topk"),
    ("sums and extremes", r"reduce|aten::(sum|mean|amax|amin)"),
    ("moved elements", r"transpose|permute|cat|copy|gather|scatter|index|roll|pad|im2row|nchw|nhwc|clone|contiguous"),
    ("elementwise", r"elementwise|vectorized|triton|aten::"),
)


class Kernel(NamedTuple):
    """One that ran; microseconds."""

    name: str
    start: float
    end: float


def trace(stage: Callable[[], Any], device: str, runs: int = 3) -> dict[str, Any]:
    """Of one run of a warm stage: launches, busy and elapsed milliseconds, gaps, and tables by class and by kernel."""
    cuda = torch.device(device).type == "cuda"
    kernels: list[list[Kernel]] = []
    for _ in range(runs):
        kernels.append(_kernels(stage, cuda))
    return {"runs": runs, "on": device, **tables(kernels)}


def tables(runs: list[list[Kernel]]) -> dict[str, Any]:
    """The figures of several runs of the same work, a run's share of them each."""
    count = len(runs)
    elapsed = sum(max(k.end for k in run) - min(k.start for k in run) for run in runs if run) / count / 1000
    busy = sum(_covered(run) for run in runs) / count / 1000
    spent: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for kernel in (kernel for run in runs for kernel in run):
        spent[kernel.name] += (kernel.end - kernel.start) / count / 1000
        calls[kernel.name] += 1
    by_class: dict[str, dict[str, float]] = {}
    for name, milliseconds in spent.items():
        of = by_class.setdefault(kernel_class(name), {"ms": 0.0, "launches": 0.0})
        of["ms"] += milliseconds
        of["launches"] += calls[name] / count
    ranked = sorted(spent, key=lambda name: -spent[name])
    return {
        "launches": round(sum(calls.values()) / count, 1),
        "elapsed_ms": round(elapsed, 4),
        "busy_ms": round(busy, 4),
        "gaps": round(1 - busy / elapsed, 4) if elapsed else 0.0,
        "classes": dict(sorted(by_class.items(), key=lambda item: -item[1]["ms"])),
        "top": [
            {"name": name[:160], "class": kernel_class(name), "ms": spent[name], "launches": calls[name] / count}
            for name in ranked[:TOP]
        ],
    }


def kernel_class(name: str) -> str:
    """What a kernel does, by its name."""
    lower = name.lower()
    return next((word for word, pattern in CLASSES if re.search(pattern, lower)), "other")


def _kernels(stage: Callable[[], Any], cuda: bool) -> list[Kernel]:
    """Those of one run; on a CPU the innermost operators of PyTorch, and ours, stand for kernels."""
    activity = torch.profiler.ProfilerActivity
    wanted = [activity.CUDA, activity.CPU] if cuda else [activity.CPU]
    with torch.profiler.profile(activities=wanted) as profiler:
        stage()
        if cuda:
            torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    events = [event for event in profiler.events() if event.device_type == kind]
    if not cuda:
        events = [event for event in events if not event.cpu_children or event.name.startswith("glip_export::")]
    return [Kernel(event.name, event.time_range.start, event.time_range.end) for event in events]


def _covered(kernels: Iterable[Kernel]) -> float:
    """Microseconds in which at least one ran."""
    covered, reached = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        covered += max(0.0, kernel.end - max(kernel.start, reached))
        reached = max(reached, kernel.end)
    return covered
