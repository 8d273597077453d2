"""The plugins' kernels on the device against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gpu.conftest import REHEARSAL
from plugins.drawn_add_norm import KINDS as NORM_KINDS
from plugins.drawn_add_norm import LIMITS as NORM_LIMITS
from plugins.drawn_add_norm import norm_rows, sum_and_norm
from plugins.drawn_bi_attention import HEADS, draw
from plugins.drawn_bi_attention import expected_of as expected_of_bi_attention
from plugins.drawn_candidates import drawn, plain_candidates, with_ties
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
from plugins.drawn_windows import LIMITS as WINDOW_LIMITS
from plugins.drawn_windows import attend_to_windows, drawn_windows
from plugins.host_text_layer import expected_attention, expected_gelu, expected_norm

from glip_export.config import ImageConfig
from glip_export.graphs.swin_node import arranged
from glip_export.image import preprocess
from glip_export.runtime.cuda.pictures import ImageSlot, device_batch
from glip_export.runtime.cuda.pool import Pool
from glip_export.runtime.host_nms import finish


@pytest.fixture
def on_device(driver: Any, request: pytest.FixtureRequest) -> Callable[..., list[np.ndarray]]:
    """on_device(make_launches, inputs, outputs): runs the launches and gives the outputs as arrays."""
    from glip_export.runtime.cuda.arrays import DeviceArray
    from glip_export.runtime.cuda.pool import Pool
    from glip_export.trt.kernels import KernelModule

    def run(make_launches: Callable, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> list[np.ndarray]:
        with driver.active():
            stream, pool = driver.new_stream(), Pool(driver)
            given, made = (
                [DeviceArray(pool, array.shape, array.dtype, stream) for array in arrays]
                for arrays in (inputs, outputs)
            )
            for array, block in zip(inputs, given, strict=True):
                driver.copy(block.pointer, np.ascontiguousarray(array), array.nbytes, stream)
            launches = make_launches(given, made)
            if REHEARSAL:
                driver.synchronize(stream)
                assert [request.getfixturevalue("host").launch(launch) for launch in launches] == [0] * len(launches)
            else:
                KernelModule.current().launch(launches, stream)
            return [np.asarray(block) for block in made]

    return run


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 8, 5, 7), (2, 64, 25, 38), (1, 256, 100, 152)])
def test_im2col(on_device: Callable, size: tuple[int, ...], stride: int, dtype: str) -> None:
    from glip_export.trt.kernels import im2col_launches

    generator = np.random.default_rng(0)
    batch, channels, height, width = size
    out_height, out_width = (-(-side // stride) for side in (height, width))
    x = generator.standard_normal(size).astype(dtype)
    offset = (3 * generator.standard_normal((batch, 18, out_height, out_width))).astype(dtype)
    mask = generator.random((batch, 9, out_height, out_width)).astype(dtype)
    empty = np.empty((batch, channels * 9, out_height * out_width), dtype)

    def launches(given: list[Any], made: list[Any]) -> Any:
        return im2col_launches(dtype, *size, out_height, out_width, stride, *given, *made)

    (columns,) = on_device(launches, [x, offset, mask], [empty])
    expected = im2col(*(array.astype(np.float32) for array in (x, offset, mask)), stride)
    np.testing.assert_allclose(columns, expected, atol=2e-5 if dtype == "float32" else 5e-3)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(("channels", "batch", "largest"), [(64, 2, (13, 22)), (32, 1, (1, 130)), (256, 2, (100, 152))])
def test_dyconv(on_device: Callable, channels: int, batch: int, largest: tuple[int, int], dtype: str) -> None:
    from glip_export.trt.kernels import DyConvSizes, dyconv_launches, dyconv_workspace_bytes

    if REHEARSAL and channels == 256:
        pytest.skip("a rehearsal without a GPU")
    levels = pyramid(*largest)
    block, features = drawn_block(channels, 16), drawn_features(channels, levels, batch)
    expected, x = expected_of(block, features), joined(features).astype(dtype)
    sizes = DyConvSizes(batch, channels, 16, tuple(levels))
    workspace = np.zeros(dyconv_workspace_bytes(dtype, sizes), np.uint8)

    def launches(given: list[Any], made: list[Any]) -> Any:
        return dyconv_launches(dtype, sizes, epsilon_of(block), given[0], given[1:], made[0], made[1].pointer)

    found, _ = on_device(launches, [x, *parameters_of(block, dtype)], [np.empty_like(x), workspace])
    assert np.abs(found.astype(np.float32) - expected).max() <= LIMITS[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("dtype", LIMITS)
def test_dyconv_of_maps_that_are_apart(on_device: Callable, dtype: str) -> None:
    from glip_export.trt.kernels import DyConvSizes, dyconv_launches, dyconv_workspace_bytes

    levels = pyramid(13, 22)
    block, features = drawn_block(64, 16), drawn_features(64, levels, 2)
    maps = [np.ascontiguousarray(feature.permute(0, 2, 3, 1).numpy().astype(dtype)) for feature in features]
    sizes = DyConvSizes(2, 64, 16, tuple(levels))
    workspace = np.zeros(dyconv_workspace_bytes(dtype, sizes), np.uint8)

    def launches(given: list[Any], made: list[Any]) -> Any:
        return dyconv_launches(dtype, sizes, epsilon_of(block), given[:5], given[5:], made[:5], made[5].pointer)

    *found, _ = on_device(launches, [*maps, *parameters_of(block, dtype)], [*map(np.empty_like, maps), workspace])
    flat = np.concatenate([array.reshape(2, -1, 64).astype(np.float32) for array in found], 1)
    expected = expected_of(block, features)
    assert np.abs(flat - expected).max() <= LIMITS[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(
    ("batch", "positions", "channels", "tokens"),
    [
        *((2, 70, 64, 16), (1, 65, 32, 43), (2, 70, 256, 16), (1, 300, 256, 43)),
        *((1, 20267, 256, 16), (2, 20267, 256, 194), (1, 4000, 256, 256)),
    ],
)
def test_bi_attention(on_device: Callable, batch: int, positions: int, channels: int, tokens: int, dtype: str) -> None:
    from glip_export.trt.kernels import (
        BiAttentionSizes,
        image_reads_launches,
        text_reads_launches,
        text_reads_workspace_bytes,
    )

    if REHEARSAL and channels == 256:
        pytest.skip("a rehearsal without a GPU")
    given = draw(batch, positions, channels, tokens)
    sizes = BiAttentionSizes(batch, positions, channels, HEADS, tokens)
    low = [array.astype(dtype) for array in (given.v, given.keys, given.bias, given.values)]
    workspace = np.zeros(text_reads_workspace_bytes(dtype, sizes), np.uint8)

    def text(inputs: list[Any], made: list[Any]) -> Any:
        return text_reads_launches(dtype, sizes, given.limits, *inputs, made[0], made[1].pointer)

    def image(inputs: list[Any], made: list[Any]) -> Any:
        return image_reads_launches(dtype, sizes, given.limits, *inputs, *made)

    to_text, _ = on_device(text, low[:3], [np.empty_like(low[1]), workspace])
    (to_image,) = on_device(image, [*low, given.mask, given.gain, given.offset], [np.empty_like(low[0])])
    for found, expected in zip((to_text, to_image), expected_of_bi_attention(given), strict=True):
        assert np.abs(found.astype(np.float32) - expected).max() <= LIMITS[dtype] * np.abs(expected).max()


@pytest.mark.parametrize(("x_dtype", "dtype"), NORM_KINDS)
@pytest.mark.parametrize(("rows", "channels"), [(1, 8), (67, 96), (300, 256), (9, 3072)])
def test_add_norm(on_device: Callable, rows: int, channels: int, x_dtype: str, dtype: str) -> None:
    from glip_export.trt.kernels import add_norm_launches

    drawn = norm_rows(rows, channels, x_dtype, dtype)
    outputs = [np.empty((rows, channels), kind) for kind in ("float32", dtype)]

    def launches(given: list[Any], made: list[Any]) -> Any:
        return add_norm_launches(x_dtype, dtype, rows, channels, 1e-5, *given, *made)

    for found, expected in zip(on_device(launches, list(drawn), outputs), sum_and_norm(drawn, 1e-5), strict=True):
        limit = NORM_LIMITS[str(found.dtype)] * np.abs(expected).max()
        assert np.abs(found.astype(np.float32) - expected).max() <= limit


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float16", 2e-3)])
@pytest.mark.parametrize("tokens", [1, 16, 194])
def test_text_layer(on_device: Callable, tokens: int, dtype: str, tolerance: float) -> None:
    from glip_export.trt.text_layer_launches import text_attention_launches, text_gelu_launches, text_norm_launches

    batch, heads, depth, limits = 2, (2 if REHEARSAL else 12), 64, (-2.0, 2.0)
    channels, rng = heads * depth, np.random.default_rng(tokens)
    qkv, mask = rng.normal(0, 1, (batch, tokens, 3 * channels)).astype(dtype), np.zeros((batch, tokens), np.float32)
    mask[1, tokens - tokens // 3 :] = np.finfo(np.float32).min
    x, added = rng.normal(0, 1, (2, batch * tokens, channels)).astype(np.float32)
    added = added.astype(dtype)
    weight, bias = rng.normal(0, 1, (2, channels)).astype(np.float32)
    values = np.linspace(-6, 6, 4096).astype(dtype)

    def attention(given: list[Any], made: list[Any]) -> Any:
        return text_attention_launches(dtype, batch, tokens, heads, depth, batch, depth**-0.5, limits, *given, *made)

    def norm(given: list[Any], made: list[Any]) -> Any:
        return text_norm_launches(dtype, batch * tokens, channels, 1e-5, limits, limits, *given, *made)

    def gelu(given: list[Any], made: list[Any]) -> Any:
        return text_gelu_launches(dtype, values.size, limits, *given, *made)

    pairs = [
        (
            on_device(attention, [qkv, mask], [np.empty((batch, tokens, channels), dtype)])[0],
            expected_attention(qkv, mask, heads, depth**-0.5, limits),
        ),
        (
            on_device(norm, [x, added, weight, bias], [np.empty_like(x), np.empty_like(added)])[1],
            expected_norm(x, added, weight, bias, 1e-5, limits, limits),
        ),
        (on_device(gelu, [values], [np.empty_like(values)])[0], expected_gelu(values, limits)),
    ]
    for found, expected in pairs:
        assert np.abs(found.astype(np.float64) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("values", [0, 5])  # all scores differ; of 5 different ones
@pytest.mark.parametrize(("batch", "classes", "k", "largest"), [(2, 3, 70, (12, 17)), (1, 80, 1000, (100, 152))])
def test_candidates(
    on_device: Callable, batch: int, classes: int, k: int, largest: tuple[int, int], values: int, dtype: str
) -> None:
    from glip_export.trt.kernels import CandidateLevel, candidates_launches, candidates_workspace_bytes

    if REHEARSAL and classes == 80:
        pytest.skip("a rehearsal without a GPU")
    levels = [CandidateLevel(*size, 64.0 * 2**i, 8 * 2**i, 1.25) for i, size in enumerate(pyramid(*largest))]
    given = drawn(batch, classes, k, levels, dtype)
    given = with_ties(given, values) if values else given
    expected, count = plain_candidates(given), len(levels)
    workspace = np.zeros(candidates_workspace_bytes(given.sizes), np.uint8)

    def launches(arrays: list[Any], made: list[Any]) -> Any:
        lists = (arrays[:count], arrays[count : 2 * count], arrays[2 * count : 3 * count])
        outputs = (*made[:3], made[3].pointer)
        return candidates_launches(dtype, given.sizes, given.threshold, *lists, arrays[-1], *outputs)

    inputs = [*given.classes, *given.centerness, *given.deltas, given.image_sizes]
    boxes, scores, labels, _ = on_device(launches, inputs, [*map(np.empty_like, expected), workspace])
    np.testing.assert_allclose(scores, expected[1], rtol=1e-6)  # expf differs in its last bit
    assert (np.diff(scores.reshape(batch, count, k), axis=2) <= 0).all()
    if values:  # one centerness, whose probability is exact: the order is the same
        np.testing.assert_array_equal(labels, expected[2])
        np.testing.assert_allclose(boxes, expected[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", WINDOW_LIMITS)
@pytest.mark.parametrize(
    ("size", "heads", "depth", "window", "shift"),
    [((2, 9, 15), 3, 32, 7, 3), ((1, 13, 25), 2, 32, 12, 6), ((1, 4, 9), 1, 64, 8, 0), ((1, 100, 152), 6, 32, 7, 3)],
)
def test_window_attention(
    on_device: Callable, size: tuple[int, int, int], heads: int, depth: int, window: int, shift: int, dtype: str
) -> None:
    from glip_export.trt.kernels import WindowSizes, window_attention_launches

    if REHEARSAL and size[1] == 100:
        pytest.skip("a rehearsal without a GPU")
    drawn, scale = drawn_windows(*size, heads, depth, window), depth**-0.5
    exact = (torch.from_numpy(array).double() for array in drawn)
    expected = attend_to_windows(*exact, window, shift, scale).numpy()
    sizes = WindowSizes(*size, heads, depth, window, shift)

    def launches(given: list[Any], made: list[Any]) -> Any:
        return window_attention_launches(dtype, sizes, scale, *given, *made)

    inputs = [array.astype(dtype) for array in (*drawn[:2], arranged(drawn[2]))]
    (found,) = on_device(launches, inputs, [np.empty(expected.shape, dtype)])
    assert np.abs(found.astype(np.float32) - expected).max() <= WINDOW_LIMITS[dtype] * np.abs(expected).max()


@pytest.mark.parametrize(("count", "classes"), [(1, 1), (257, 3), (5000, 80), (5000, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_nms(on_device: Callable, batch: int, count: int, classes: int) -> None:
    from glip_export.trt.kernels import nms_launches, nms_workspace_bytes

    generator = np.random.default_rng(count + batch)
    corners = (generator.random((batch, count, 2)) * 600).astype(np.float32)
    boxes = np.concatenate([corners, corners + generator.random((batch, count, 2)).astype(np.float32) * 200], axis=2)
    scores = generator.random((batch, count)).astype(np.float32).round(2)  # many are equal
    scores[generator.random((batch, count)) < 0.1] = -1
    labels = generator.integers(0, classes, (batch, count)).astype(np.int32)
    detections = 100
    outputs = [
        np.empty((batch, detections, 4), np.float32),
        np.empty((batch, detections), np.float32),
        np.empty((batch, detections), np.int32),
        np.empty(batch, np.int32),
        np.empty(nms_workspace_bytes(batch, count, detections), np.uint8),
    ]

    def launches(given: list[Any], made: list[Any]) -> Any:
        return nms_launches(batch, count, detections, 0.6, *given, *made)

    found = on_device(launches, [boxes, scores, labels], outputs)[:4]
    for one, other in zip(found, finish(boxes, scores, labels, 0.6, detections), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [(2, 3), (480, 640), (427, 1000), (800, 1066), (3000, 2000)])
def test_pictures(driver: Any, size: tuple[int, int]) -> None:
    """As the host makes them, to the bit."""
    if REHEARSAL and size[0] > 480:
        pytest.skip("a rehearsal without a GPU")
    pictures = [
        np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8),
        np.full((9, 9, 3), 255, np.uint8),
    ]
    config = ImageConfig(min_size=8, max_size=16) if REHEARSAL else ImageConfig()
    with driver.active():
        slot, stream = ImageSlot(Pool(driver)), driver.new_stream()
        batch = device_batch(pictures, [size, (9, 9)], config)
        slot.load_images(batch.images, stream)
        found = np.empty(batch.images.shape, np.float32)
        driver.copy(found, slot.pointer, found.nbytes, stream)
        driver.synchronize(stream)
    np.testing.assert_array_equal(found, preprocess(pictures, config).images, strict=True)


def im2col(x: np.ndarray, offset: np.ndarray, mask: np.ndarray, stride: int) -> np.ndarray:
    """(B, C*9, Ho*Wo): 3x3, padding 1; a corner outside the picture counts 0, the mask after the interpolation."""
    batch, channels, height, width = x.shape
    rows, columns = (stride * np.arange(side, dtype=np.float32) - 1 for side in offset.shape[2:])
    result = np.zeros((batch, channels, 9, *offset.shape[2:]), np.float32)
    for image in range(batch):
        for tap in range(9):
            y = rows[:, None] + tap // 3 + offset[image, 2 * tap]
            at = columns[None, :] + tap % 3 + offset[image, 2 * tap + 1]
            top, left = np.floor(y).astype(int), np.floor(at).astype(int)
            for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - np.abs(y - (top + down))) * (1 - np.abs(at - (left + right)))
                inside = (top + down >= 0) & (top + down < height) & (left + right >= 0) & (left + right < width)
                corner = x[image][:, np.clip(top + down, 0, height - 1), np.clip(left + right, 0, width - 1)]
                result[image, :, tap] += np.where(inside, weight, 0) * corner
            result[image, :, tap] *= mask[image, tap]
    return result.reshape(batch, channels * 9, -1)
