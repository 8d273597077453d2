"""Our CUDA kernels on the device against NumPy: the tests, and the worst error over every kind of edge."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from context import Context, FailedError, Part, fake_driver
from pytest_run import run_tests

LIMITS = {"float32": 1e-5, "float16": 2e-3}  # of the largest value
SIZES = ((1, 1, 1, 1), (1, 3, 2, 5), (2, 8, 5, 7), (1, 32, 7, 10), (3, 17, 13, 19), (1, 64, 25, 38), (1, 256, 50, 76))
OFFSETS = {"none": 0.0, "a pixel": 1.0, "far": 8.0, "outside": 1e4}
BLOCKS = ((32, 1, 1, 1), (32, 2, 5, 7), (64, 1, 13, 19), (64, 2, 25, 38), (256, 1, 50, 76), (256, 2, 100, 152))
CHANNELS_OF_GROUP = 16  # as GLIP's; the norm of two values that are nearly equal makes the halves' rounding large
PICTURES = ((480, 640), (427, 640), (1080, 1920), (3000, 4000))
BLOCK_OFFSETS = {"none": 0.0, "a pixel": 1.2}


def parts(context: Context) -> list[Part]:
    """The tests first."""
    return [
        ("tests", lambda: run_tests(context, ["tests/gpu/test_kernels.py"])),
        ("im2col", lambda: _im2col(context)),
        ("dyconv", lambda: _dyconv(context)),
        ("nms", lambda: _nms(context)),
        ("pictures", lambda: _pictures(context)),
    ]


def _im2col(context: Context) -> dict[str, Any]:
    import torch
    from gpu.test_kernels import im2col

    operator = _operators(context).deform_im2col
    worst: dict[str, dict[str, float]] = {}
    for size, stride, dtype, (kind, spread) in product(_sizes(context), (1, 2), LIMITS, OFFSETS.items()):
        generator = np.random.default_rng(sum(size) + stride)
        batch, _, height, width = size
        out = [-(-side // stride) for side in (height, width)]
        x = generator.standard_normal(size).astype(dtype)
        offset = (spread * generator.standard_normal((batch, 18, *out))).astype(dtype)
        mask = generator.random((batch, 9, *out)).astype(dtype)
        tensors = [torch.from_numpy(array).to(context.device) for array in (x, offset, mask)]
        found = operator(*tensors, stride).float().cpu().numpy()
        expected = im2col(*(array.astype(np.float32) for array in (x, offset, mask)), stride)
        error = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1.0))
        of_type = worst.setdefault(dtype, {})
        of_type[kind] = max(of_type.get(kind, 0.0), error)
    line = ", ".join(f"{dtype} {max(errors.values()):.1e}" for dtype, errors in worst.items())
    found = {"line": f"worst error of the largest value: {line}", "worst": worst, "limits": LIMITS}
    if any(max(errors.values()) > LIMITS[dtype] for dtype, errors in worst.items()):
        raise FailedError(found["line"], found)
    return found


def _dyconv(context: Context) -> dict[str, Any]:
    """Whole blocks against the model's own module in float64."""
    import torch
    from plugins.drawn_dyconv import (
        LIMITS,
        drawn_block,
        drawn_features,
        epsilon_of,
        expected_of,
        joined,
        parameters_of,
        pyramid,
    )

    operator = _operators(context).dyconv
    worst: dict[str, dict[str, float]] = {}
    for (channels, batch, height, width), (kind, spread) in product(_blocks(context), BLOCK_OFFSETS.items()):
        levels = pyramid(height, width)
        groups = channels // CHANNELS_OF_GROUP
        block, features = drawn_block(channels, groups, offset=spread), drawn_features(channels, levels, batch)
        expected = expected_of(block, features)
        for dtype in LIMITS:
            given = [joined(features).astype(dtype), *parameters_of(block, dtype)]
            x, *parameters = (torch.from_numpy(array).to(context.device) for array in given)
            sizes = [side for level in levels for side in level]
            found = operator(x, sizes, parameters, groups, epsilon_of(block)).float().cpu().numpy()
            error = float(np.abs(found - expected).max() / np.abs(expected).max())
            worst.setdefault(dtype, {})[f"{kind}, {batch} x {channels} x {height} x {width}"] = error
    line = ", ".join(f"{dtype} {max(errors.values()):.1e}" for dtype, errors in worst.items())
    result = {"line": f"worst error of the largest value: {line}", "worst": worst, "limits": LIMITS}
    if any(max(errors.values()) > LIMITS[dtype] for dtype, errors in worst.items()):
        raise FailedError(result["line"], result)
    return result


def _nms(context: Context) -> dict[str, Any]:
    import torch

    from glip_export.runtime.host_nms import finish

    operator, unequal, counted = _operators(context).nms, [], 0
    for name, (boxes, scores, labels), detections in _candidates(context):
        tensors = [torch.from_numpy(array).to(context.device) for array in (boxes, scores, labels)]
        found = [tensor.cpu().numpy() for tensor in operator(*tensors, 0.6, detections)]
        expected = finish(boxes, scores, labels, 0.6, detections)
        counted += 1
        if not all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True)):
            unequal.append(name)
    found = {"line": f"{counted} selections, {len(unequal)} unlike NumPy's", "unequal": unequal}
    if unequal:
        raise FailedError(found["line"], found)
    return found


def _pictures(context: Context) -> dict[str, Any]:
    """From a picture's bytes to the network's input on the device: prepared there, and by the host."""
    from glip_export.config import ImageConfig
    from glip_export.image import preprocess, resize
    from glip_export.runtime.cuda.driver import CudaDriver
    from glip_export.runtime.cuda.pictures import ImageSlot, device_batch
    from glip_export.runtime.cuda.pool import Pool

    driver: Any = fake_driver() if context.rehearsal else CudaDriver()
    config = ImageConfig(min_size=32, max_size=64) if context.rehearsal else ImageConfig()
    ways = {  # the last: as the service and the commands do it, which resize in threads
        "by the host": lambda picture: preprocess([picture], config).images,
        "on the GPU": lambda picture: device_batch([picture], [picture.shape[:2]], config).images,
        "normalised on the GPU": lambda picture: (
            device_batch([resize(picture, config)], [picture.shape[:2]], config).images
        ),
    }
    times: dict[str, dict[str, float]] = {}
    unequal = []
    with driver.active():
        stream, slot = driver.new_stream(), ImageSlot(Pool(driver))
        for size in PICTURES[: 1 if context.rehearsal else None]:
            picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
            expected = preprocess([picture], config).images
            for name, prepare in ways.items():
                seconds = []
                for _ in range(2 if context.rehearsal else 30):
                    start = time.perf_counter()
                    images = prepare(picture)
                    slot.load_images(images, stream)
                    driver.synchronize(stream)
                    seconds.append(time.perf_counter() - start)
                times.setdefault(f"{size[0]}x{size[1]}", {})[name] = 1000 * float(np.median(seconds))
                found = np.empty(expected.shape, np.float32)
                driver.copy(found, slot.pointer, found.nbytes, stream)
                driver.synchronize(stream)
                if not np.array_equal(found, expected):
                    unequal.append(f"{size}, {name}")
    lines = (f"{size} {of_size['by the host']:.1f} -> {of_size['on the GPU']:.2f}" for size, of_size in times.items())
    found_all = {"line": f"ms to prepare a picture: {', '.join(lines)}", "median_ms": times, "unequal": unequal}
    if unequal:
        raise FailedError(f"not the host's pictures: {', '.join(unequal)}", found_all)
    return found_all


def _candidates(context: Context) -> Iterator[tuple[str, tuple[np.ndarray, ...], int]]:
    """Ties, empty places, everything suppressed, NaN, one candidate to five thousand."""
    generator = np.random.default_rng(0)
    counts = (1, 31, 257, 1000) if context.rehearsal else (1, 31, 256, 257, 1000, 5000)
    for count, batch, classes in product(counts, (1, 3), (1, 80)):
        corners = (generator.random((batch, count, 2)) * 600).astype(np.float32)
        sizes = generator.random((batch, count, 2)).astype(np.float32) * 200
        boxes = np.concatenate([corners, corners + sizes], axis=2)
        labels = generator.integers(0, classes, (batch, count)).astype(np.int32)
        scores = generator.random((batch, count)).astype(np.float32)
        for kind in ("plain", "ties", "empty", "one place", "some empty", "not numbers"):
            of_kind, where = scores.copy(), boxes
            if kind == "ties":
                of_kind = of_kind.round(1)
            elif kind == "empty":
                of_kind[:] = -1
            elif kind == "one place":
                where = np.repeat(boxes[:, :1], count, axis=1)
            elif kind == "some empty":
                of_kind[generator.random(of_kind.shape) < 0.5] = -1
            elif kind == "not numbers":
                of_kind[generator.random(of_kind.shape) < 0.1] = np.nan
            for detections in (1, 100):
                yield f"{kind}, {batch} x {count} of {classes}, best {detections}", (where, of_kind, labels), detections


def _operators(context: Context) -> Any:
    import torch

    from glip_export.runtime.torch_cuda import dyconv, kernels  # noqa: F401  register them

    if context.rehearsal:
        fake_driver()
    return torch.ops.glip_export


def _sizes(context: Context) -> tuple[tuple[int, ...], ...]:
    return SIZES[:5] if context.rehearsal else SIZES


def _blocks(context: Context) -> tuple[tuple[int, ...], ...]:
    return BLOCKS[:3] if context.rehearsal else BLOCKS
