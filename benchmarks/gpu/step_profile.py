"""Where torch:cuda's time goes: each stage by kernel, with and without CUDA graphs, and our own kernels alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from contestants import Contestants
from context import Context, Part
from full_size import config_of, picture_size
from kernel_trace import trace
from step_environment import _seconds as best_seconds
from turns import take_turns

from glip_export.graphs.contracts import pyramid_axes
from glip_export.graphs.fused_nodes import LOW_INPUTS
from glip_export.graphs.swin_node import SWIN_BLOCK
from glip_export.runtime.torch_cuda import dyconv, functions, kernels, norms, windows  # noqa: F401  register our operators
from glip_export.runtime.torch_cuda.session import FUSED
from glip_export.trt.dyconv_launches import DyConvSizes
from glip_export.trt.kernels import WindowSizes
from glip_export.trt.launches import up

WORD = "torch:cuda:fp16"
ALL = {"fused": FUSED}
TURNS = 40  # of a picture with and without one kind of module
REPEATS = 10  # of a kernel that is timed alone, in one CUDA graph


def parts(context: Context) -> list[Part]:
    """Our kernels, which need no model, then the stages."""
    made: list[Contestants] = []

    def contestants() -> Contestants:
        if not made:
            made.append(Contestants(context))
        return made[0]

    prompts = ("4 names",) if context.rehearsal else ("4 names", "COCO")
    stages = [
        (f"stages-{prompt.replace(' ', '-')}{suffix}", partial(_stages, context, contestants, prompt, options))
        for suffix, options in (("-fused", ALL), ("", {}), ("-fused-no-graphs", {**ALL, "cuda_graphs": 0}))
        for prompt in prompts
    ]
    without = [
        (f"without-{name.replace(' ', '-')}", partial(_without, context, contestants, prompts, name)) for name in FUSED
    ]
    return [
        ("deform-conv", partial(_deform_conv, context, contestants)),
        ("dyconv", partial(_dyconv, context, contestants)),
        ("nms", partial(_nms, context, contestants)),
        ("swin", partial(_swin, context, contestants)),
        *stages[: 2 * len(prompts)],
        *without,
        *stages[2 * len(prompts) :],
    ]


def _stages(
    context: Context, contestants: Callable[[], Contestants], prompt: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Batch 1, stage by stage, each waited for, so that its kernels are its own."""
    them = contestants()
    row = them.backend(WORD, WORD, them.work(1, prompt), **options)
    session = them.session(WORD, **options)
    stages = row.prepare()
    for _ in range(2 if context.rehearsal else row.warm):
        for _, stage in stages:
            stage()
    found: dict[str, Any] = {}
    for name, stage in stages:

        def waited(stage: Callable[[], Any] = stage) -> None:
            stage()
            session.synchronize()

        found[name] = trace(waited, context.device)
    words = ", ".join(
        f"{name} {of['elapsed_ms']:.2f} ms of {of['launches']:.0f} kernels, {100 * of['gaps']:.0f} % gaps"
        for name, of in found.items()
    )
    return {"line": words, "stages": found, "session": session.describe()}


def _without(
    context: Context, contestants: Callable[[], Contestants], prompts: tuple[str, ...], name: str
) -> dict[str, Any]:
    """What one kind of module is good for: a picture with all fused, and with all but these, by CUDA's events."""
    them, found = contestants(), {}
    rest = tuple(module for module in FUSED if module != name)
    for prompt in prompts:
        work = them.work(1, prompt)
        rows = [them.backend(word, WORD, work, fused=fused) for word, fused in (("all", FUSED), ("without", rest))]
        rounds, warm = (3, 2) if context.rehearsal else (TURNS, 0)
        timed = take_turns(rows, them.clock, rounds, 3.0, warm, context.device)
        if trouble := [facts["failed"] for facts in timed.values() if "failed" in facts]:
            raise RuntimeError("; ".join(trouble))
        found[prompt] = {word: facts["total_ms"]["p50"] for word, facts in timed.items()}
    words = ", ".join(f"{prompt} {of['without'] - of['all']:.2f} ms" for prompt, of in found.items())
    return {"line": f"{name}: {words}", "ms": found}


def _deform_conv(context: Context, contestants: Callable[[], Contestants]) -> dict[str, Any]:
    """The sampling and the product of each level at stride 1, and from the larger level at stride 2."""
    contestants()  # registers the kernels, and sets the stream
    config = config_of(context)
    channels, axes = config.head.channels, pyramid_axes(*picture_size(context), config.swin.is_v2)
    peaks = context.result("environment", "peaks")
    found: dict[str, Any] = {}
    with torch.inference_mode():
        for dtype in (torch.float16, torch.float32):
            for level, stride in [(level, 1) for level in range(3, 8)] + [(level, 2) for level in range(4, 8)]:
                source = level if stride == 1 else level - 1
                sizes = (axes[f"H{source}"], axes[f"W{source}"]), (axes[f"H{level}"], axes[f"W{level}"])
                name = f"P{level} stride {stride} {str(dtype).removeprefix('torch.')}"
                found[name] = _one_level(context, channels, *sizes, stride, dtype, peaks)
    whole = sum(of["im2col_us"] + of["product_us"] for name, of in found.items() if name.endswith("float16"))
    return {"line": f"P3..P7 in half, strides 1 and 2: {whole / 1000:.3f} ms", "levels": found}


def _dyconv(context: Context, contestants: Callable[[], Contestants]) -> dict[str, Any]:
    """A whole block in our kernels, alone, and each of the kernels."""
    from plugins.drawn_dyconv import drawn_block, drawn_features, epsilon_of, joined, parameters_of

    contestants()
    config = config_of(context)
    channels, axes = config.head.channels, pyramid_axes(*picture_size(context), config.swin.is_v2)
    groups = config.head.group_norm_groups
    levels = [(axes[f"H{level}"], axes[f"W{level}"]) for level in range(3, 8)]
    sizes, block = [side for level in levels for side in level], drawn_block(channels, groups)
    epsilon, peaks = epsilon_of(block), context.result("environment", "peaks")
    found: dict[str, Any] = {}
    for dtype in ("float16", "float32"):
        given = [joined(drawn_features(channels, levels, 1)).astype(dtype), *parameters_of(block, dtype)]
        x, *parameters = (torch.from_numpy(array).to(context.device) for array in given)

        def once(x: torch.Tensor = x, parameters: list[torch.Tensor] = parameters) -> None:
            torch.ops.glip_export.dyconv(x, sizes, parameters, groups, epsilon)

        with torch.inference_mode():
            seconds = _seconds_alone(context, once)
            kernels = trace(once, context.device)
        flop = 2 * 9 * channels * (channels * DyConvSizes(1, channels, groups, tuple(levels)).rows + 27 * x.shape[1])
        found[dtype] = {"us": 1e6 * seconds, "tflops": flop / seconds / 1e12, "kernels": kernels["top"]}
        if peaks is not None:
            found[dtype]["share_of_peak"] = found[dtype]["tflops"] / peaks["matmul_tflops"][dtype]
    line = ", ".join(f"{dtype} {of['us']:.0f} us" for dtype, of in found.items())
    return {"line": f"a block at full size: {line}", "levels": levels, "types": found}


def _swin(context: Context, contestants: Callable[[], Contestants]) -> dict[str, Any]:
    """A whole shifted block of each stage, heads of 32 channels as all Swins have, and each of its kernels."""
    contestants()
    swin, (height, width), found = config_of(context).swin, picture_size(context), {}
    for stage, heads in enumerate(swin.num_heads):
        side, channels, window = 4 * 2**stage, 32 * heads, swin.window_size
        size, hidden = (1, up(height, side), up(width, side)), 4 * channels
        relative = WindowSizes(*size, heads, 32, window, window // 2).relative_shape
        shapes = [(channels,), (channels,), (3 * channels, channels), (3 * channels,), relative]
        shapes += [(channels, channels), (channels,), (channels,), (channels,)]
        shapes += [(hidden, channels), (hidden,), (channels, hidden), (channels,)]
        draw = torch.Generator(device=context.device).manual_seed(stage)
        x, *parameters = (
            (torch.randn(shape, generator=draw, device=context.device) / 8).to(
                torch.float16 if place in LOW_INPUTS[SWIN_BLOCK] else torch.float32
            )
            for place, shape in enumerate([(*size, channels), *shapes])
        )
        once = partial(functions.swin_block, window, window // 2, 32**-0.5, [1e-5, 1e-5], x, *parameters)
        with torch.inference_mode():
            us = 1e6 * _seconds_alone(context, once)
            found[f"stage {stage + 1}"] = {"us": us, "size": size, "kernels": trace(once, context.device)["top"]}
    return {"line": ", ".join(f"{name} {of['us']:.0f} us" for name, of in found.items()), "stages": found}


def _one_level(
    context: Context, channels: int, source: tuple[int, int], target: tuple[int, int], stride: int,
    dtype: torch.dtype, peaks: dict[str, Any] | None,
) -> dict[str, float]:  # fmt: skip
    draw = torch.Generator(device=context.device).manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, device=context.device).to(dtype)

    positions = target[0] * target[1]
    x, offset, mask = noise(1, channels, *source), noise(1, 18, *target), noise(1, 9, *target).sigmoid()
    weight, columns = noise(channels, 9 * channels), noise(1, 9 * channels, positions)
    sampling = _seconds_alone(context, lambda: torch.ops.glip_export.deform_im2col(x, offset, mask, stride))
    product = _seconds_alone(context, lambda: torch.matmul(weight, columns))
    moved = dtype.itemsize * (x.numel() + offset.numel() + mask.numel() + columns.numel())
    flop = 2 * weight.numel() * positions
    found = {
        "im2col_us": 1e6 * sampling,
        "product_us": 1e6 * product,
        "im2col_mb": moved / 1e6,
        "im2col_tb_per_second": moved / sampling / 1e12,
        "product_tflops": flop / product / 1e12,
    }
    if peaks is not None:
        best = peaks["matmul_tflops"]["float16" if dtype == torch.float16 else "float32"]
        found["im2col_share_of_copy"] = found["im2col_tb_per_second"] / peaks["copy_tb_per_second"]
        found["product_share_of_peak"] = found["product_tflops"] / best
    return found


def _nms(context: Context, contestants: Callable[[], Contestants]) -> dict[str, Any]:
    """The box selection on as many candidates as a picture can have."""
    contestants()
    detection = config_of(context).detection
    count = detection.pre_nms_top_n * len(detection.anchor_strides)
    height, width = picture_size(context)
    found = {}
    for batch in (1, 8):
        draw = torch.Generator(device=context.device).manual_seed(batch)

        def uniform(*shape: int, draw: torch.Generator = draw) -> torch.Tensor:
            return torch.rand(shape, generator=draw, device=context.device)

        corner = uniform(batch, count, 2) * torch.tensor([width, height], device=context.device)
        boxes = torch.cat((corner, corner + 8 + 200 * uniform(batch, count, 2)), -1)
        labels = (80 * uniform(batch, count)).int()
        arguments = boxes, uniform(batch, count), labels, detection.nms_threshold, detection.detections_per_image
        found[f"batch {batch}"] = 1e6 * _seconds_alone(context, partial(torch.ops.glip_export.nms, *arguments))
    return {"line": ", ".join(f"{name} {us:.0f} us" for name, us in found.items()), "candidates": count, "us": found}


def _seconds_alone(context: Context, work: Callable[[], Any]) -> float:
    """Of one of several in a row, put by a CUDA graph: the host takes longer to put a kernel than many of them run."""
    if context.rehearsal:
        return best_seconds(context, work)
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            work()
    return best_seconds(context, graph.replay) / REPEATS
